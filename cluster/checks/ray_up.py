"""Rules for the YAML of ``ray up``: Ray's own check, then what Ray would find out on paid nodes."""

import copy
import logging
import re
from pathlib import Path
from typing import Any

from cluster.checks.pods import SHORTEST_STOP_S, STOP_WAIT, image_problems
from cluster.checks.problem import Problem, Problems, at, mapping, texts

PROVIDER_KEYS = {
    "aws": {
        "type", "region", "availability_zone", "cache_stopped_nodes", "security_group",
        "use_internal_ips", "key_pair", "cloudwatch",
    },
    "gcp": {
        "type", "region", "availability_zone", "project_id", "gcp_credentials", "use_internal_ips",
        "cache_stopped_nodes",
    },
}  # fmt: skip
"""Ray's schema lets any key of a provider pass."""
NETWORKS = {
    "aws": ({"SecurityGroupIds", "NetworkInterfaces"}, "the group that Ray makes"),
    "gcp": ({"networkInterfaces"}, "the default network"),
}
"""What a node must name, and what it gets otherwise."""
EVERYWHERE = re.compile(r"--dashboard-host[= ](?!127\.|localhost)(\S+)")


def ray_up_problems(document: dict[str, Any], *, tested: str) -> Problems:
    """All rules; ``tested`` is the Ray that the image has."""
    text = _rays_own_check(document)
    if text:
        yield Problem("", f"ray up refuses this file: {text}")
    kind = str(at(document, "provider", "type"))
    if kind not in PROVIDER_KEYS:
        yield Problem("provider.type", f"{kind}; rules are known for {', '.join(PROVIDER_KEYS)}")
        return
    for key in sorted(mapping(document.get("provider")).keys() - PROVIDER_KEYS[kind]):
        yield Problem(f"provider.{key}", f"Ray knows no such key for {kind}, and ignores it")
    yield from _size_problems(document)
    yield from _node_problems(document, kind)
    yield from _container_problems(mapping(document.get("docker")), tested)
    yield from _token_problems(document)
    yield from _command_problems(document)


def _rays_own_check(document: dict[str, Any]) -> str | None:
    """What ``ray up`` says before it starts anything; None where it accepts the file."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    # It tells of defaults that it takes; what is wrong with them is said below.
    logging.getLogger(prepare_config.__module__).setLevel(logging.WARNING)
    try:
        validate_config(prepare_config(copy.deepcopy(document)))
    except Exception as error:  # Ray raises KeyError, AssertionError, ValidationError and others
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"{type(error).__name__}: {lines[0]}"
    return None


def _size_problems(document: dict[str, Any]) -> Problems:
    most = document.get("max_workers")
    if not isinstance(most, int):
        yield Problem("max_workers", f"{most}; Ray takes 2 where it is left out, so say it")
        return
    types, head = mapping(document.get("available_node_types")), document.get("head_node_type")
    for name, node in types.items():
        where = f"available_node_types.{name}"
        fewest, own = mapping(node).get("min_workers", 0), mapping(node).get("max_workers")
        if name == head:
            if fewest or own:
                yield Problem(where, "the head would be started again as a worker; set both to 0")
            if at(node, "resources", "CPU") != 0:
                yield Problem(
                    f"{where}.resources",
                    "workers would run beside the drivers, and could end the head; set CPU: 0",
                )
            continue
        if not isinstance(own, int) or not isinstance(fewest, int):
            yield Problem(where, "set min_workers and max_workers")
        elif not 0 <= fewest <= own:
            yield Problem(where, f"min_workers {fewest} is above max_workers {own}")
        elif own > most:
            yield Problem(where, f"max_workers {own} is above the cluster's max_workers {most}")


def _node_problems(document: dict[str, Any], kind: str) -> Problems:
    keys, otherwise = NETWORKS[kind]
    for name, node in mapping(document.get("available_node_types")).items():
        where, config = f"available_node_types.{name}", mapping(at(node, "node_config"))
        if not config.keys() & keys:
            yield Problem(
                f"{where}.node_config",
                f"no {' or '.join(sorted(keys))}: {otherwise} lets ssh in from everywhere",
            )
        for key, count in mapping(at(node, "resources")).items():
            if not isinstance(count, int):
                yield Problem(f"{where}.resources.{key}", f"{count}; expected a whole number")
        if config.get("guestAccelerators") and "TERMINATE" not in str(config.get("scheduling")):
            yield Problem(
                f"{where}.node_config.scheduling",
                "a node with GPUs cannot be moved; set onHostMaintenance: TERMINATE",
            )


def _container_problems(docker: dict[str, Any], tested: str) -> Problems:
    images = [docker.get(key) for key in ("image", "head_image", "worker_image")]
    if not any(images) or not docker.get("container_name"):
        yield Problem(
            "docker", "set image and container_name; without a container, nodes have no Ray"
        )
    for image in filter(None, images):
        yield from image_problems("docker", image, tested)
    options = " ".join(texts(docker.get("run_options")))
    if "--shm-size" not in options:
        yield Problem("docker.run_options", "no --shm-size; Ray then takes a third of the memory")
    if not re.search(r"(-v|--volume)[= ]/", options):
        yield Problem("docker.run_options", "no -v: store and runs must lie on a shared folder")
    if "RAY_AUTH_MODE=token" not in options:
        yield Problem("docker.run_options", "no -e RAY_AUTH_MODE=token: the cluster would be open")
    if re.search(r"RAY_AUTH_TOKEN=", options):
        yield Problem("docker.run_options", "the token stands here for all to read; mount a file")
    if re.search(r"(-p|--publish)[= ]\d|--privileged", options):
        yield Problem(
            "docker.run_options", "opens the container; leave it out, and use ray dashboard"
        )


def _token_problems(document: dict[str, Any]) -> Problems:
    options = " ".join(texts(at(document, "docker", "run_options")))
    path = re.search(r"RAY_AUTH_TOKEN_PATH=(\S+)", options)
    folders = [str(folder) for folder in mapping(document.get("file_mounts"))]
    if path is None:
        yield Problem("docker.run_options", "no -e RAY_AUTH_TOKEN_PATH=…: nodes have no token")
    elif not any(Path(path[1]).is_relative_to(folder) for folder in folders):
        yield Problem("file_mounts", f"nothing brings the token to {path[1]}")


def _command_problems(document: dict[str, Any]) -> Problems:
    for key in ("setup_commands", "head_setup_commands"):
        if key not in document:
            yield Problem(key, "left out, and Ray's defaults would install packages; write []")
    commands = {
        key: " ".join(texts(document.get(key)))
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
    }
    for key, command in commands.items():
        match = EVERYWHERE.search(command)
        if match:
            yield Problem(key, f"the dashboard listens on {match[1]}; expected 127.0.0.1")
        if "ray stop" not in command or "ray start" not in command:
            yield Problem(key, "expected `ray stop`, then `ray start`: Ray's defaults are open")
    head, worker = commands.values()
    if "--dashboard-host" not in head:
        yield Problem("head_start_ray_commands", "no --dashboard-host=127.0.0.1")
    if "--autoscaling-config=~/ray_bootstrap_config.yaml" not in head:
        yield Problem("head_start_ray_commands", "no --autoscaling-config: no worker would start")
    wait = re.search(rf"{STOP_WAIT}=(\d+)", head)
    if wait is None or int(wait[1]) < SHORTEST_STOP_S:
        yield Problem(
            "head_start_ray_commands",
            f"{STOP_WAIT} is {wait[1] if wait else 'not set'}; a stopped job needs "
            f"{SHORTEST_STOP_S} s or more for its checkpoint, and Ray gives 3",
        )
    port = re.search(r"--port[= ](\d+)", head)
    if port and f"$RAY_HEAD_IP:{port[1]}" not in worker:
        yield Problem("worker_start_ray_commands", f"expected --address=$RAY_HEAD_IP:{port[1]}")
