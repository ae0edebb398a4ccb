"""Connecting to a Ray cluster, or starting one here.

Imported before anything of Ray: Ray reads its settings when it is imported.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Ray shall report no usage, leave workers in the directory they were started in, and not warn where
# there are no GPUs.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray

from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError
from greatmeta_dist.processors import available_processors

OBJECT_STORE_BYTES = 200 << 20
"""Of a local Ray; nothing large goes through it."""
CONNECT_S = 10.0
"""How long a cluster may take to answer."""


def require_answer(address: str | None) -> None:
    """Raise ``InputError`` where nothing listens at ``host:port``: Ray itself tries for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise _no_answer(address, str(error)) from error


def _no_answer(address: str | None, reason: str) -> InputError:
    return InputError(
        f"no Ray cluster answers at cluster.address={address} ({reason}); start one there with: "
        "ray start --head, or leave cluster.address out"
    )


@contextmanager
def connected(cluster: ClusterConfig, display: Display) -> Iterator[None]:
    """Connect to ``cluster.address``, or to a local Ray that ends with the block.

    Where this process is connected already, that connection is used, and stays.
    """
    if ray.is_initialized():
        yield
        return
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if cluster.address is not None:
            ray.init(address=cluster.address, **common)
        else:
            display.say("starting a local Ray")
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            ray.init(
                address="local",
                num_cpus=max(available_processors(), cluster.most_workers * cluster.threads),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                **common,
            )
    except ConnectionError as error:
        raise _no_answer(cluster.address, str(error).splitlines()[0]) from error
    try:
        yield
    finally:
        ray.shutdown()


def gpus_per_worker(cluster: ClusterConfig) -> float:
    """GPUs of each worker: as asked for, or one where the cluster has any."""
    if cluster.gpus_per_worker is not None:
        return cluster.gpus_per_worker
    return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
