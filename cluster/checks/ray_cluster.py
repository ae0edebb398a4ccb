"""Rules for a RayCluster, alone or in a RayJob, that KubeRay's schemas do not have.

Some are the operator's own, which it tells only once the file is applied
(``ray-operator/controllers/ray/utils/validation.go`` of KubeRay 1.7.0). The others are ours.
"""

import re
from typing import Any

from cluster.checks.pods import gpus, pod_problems, shared_paths
from cluster.checks.problem import Problem, Problems, at, mapping, mappings

API_VERSION = "ray.io/v1"
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONGEST_NAME = {"RayCluster": 53, "RayJob": 47}
"""The operator adds to these names, and Kubernetes allows 63."""
FIRST_WITH_TOKEN = (2, 52)
GATED = ("networkPolicy", "tlsOptions", "historyServerOptions")
"""Keys that the operator refuses unless a feature is switched on, which by default is off."""


def ray_cluster_problems(document: dict[str, Any], *, tested: str) -> Problems:
    """All rules for a RayCluster."""
    yield from name_problems(document, "RayCluster")
    spec = mapping(document.get("spec"))
    yield from cluster_problems("spec", spec, tested=tested)
    if not shared_by_all(spec):
        yield Problem("spec", "head and workers share no volume; a run must be seen by all of them")


def cluster_problems(where: str, spec: dict[str, Any], *, tested: str) -> Problems:
    """Rules for the cluster itself, alone or in a RayJob."""
    yield from _version_problems(where, spec, tested)
    for key in GATED:
        if key in spec:
            yield Problem(f"{where}.{key}", "the operator refuses it unless its feature is enabled")
    head = mapping(spec.get("headGroupSpec"))
    if head.get("enableIngress") or head.get("serviceType", "ClusterIP") != "ClusterIP":
        yield Problem(
            f"{where}.headGroupSpec",
            "opens the head to outside of Kubernetes; leave it a ClusterIP, and use kubectl "
            "port-forward",
        )
    if "num-cpus" not in mapping(head.get("rayStartParams")):
        yield Problem(
            f"{where}.headGroupSpec.rayStartParams",
            'no num-cpus: "0"; workers would run beside the driver, and could end the head',
        )
    yield from pod_problems(
        f"{where}.headGroupSpec.template", head.get("template"), ray_version=tested, is_head=True
    )
    yield from _group_problems(where, spec, tested)
    yield from _autoscaler_problems(where, spec)


def name_problems(document: dict[str, Any], kind: str) -> Problems:
    """API version and name; ``kind`` says how long the name may be."""
    name, longest = str(at(document, "metadata", "name") or ""), LONGEST_NAME[kind]
    if document.get("apiVersion") != API_VERSION:
        yield Problem("apiVersion", f"{document.get('apiVersion')}; expected {API_VERSION}")
    if not LABEL.fullmatch(name) or len(name) > longest:
        yield Problem(
            "metadata.name",
            f"'{name}'; expected a-z, 0-9 and -, a letter first, {longest} characters at most",
        )


def shared_by_all(cluster: dict[str, Any]) -> set[str]:
    """The paths of volumes that the pods of every group mount."""
    nodes = [cluster.get("headGroupSpec"), *mappings(cluster.get("workerGroupSpecs"))]
    return set.intersection(*(shared_paths(at(node, "template")) for node in nodes))


def gpus_of_pods(cluster: dict[str, Any]) -> list[float]:
    """The GPUs of each worker pod that there may be."""
    pods: list[float] = []
    for group in mappings(cluster.get("workerGroupSpecs")):
        most = group.get("maxReplicas")
        pods += [gpus(group.get("template"))] * (most if isinstance(most, int) else 0)
    return pods


def _group_problems(where: str, spec: dict[str, Any], tested: str) -> Problems:
    groups = mappings(spec.get("workerGroupSpecs"))
    names = [str(group.get("groupName")) for group in groups]
    if not groups:
        yield Problem(f"{where}.workerGroupSpecs", "no workers: nothing would train")
    for index, group in enumerate(groups):
        here = f"{where}.workerGroupSpecs[{index}]"
        if names.count(names[index]) > 1:
            yield Problem(f"{here}.groupName", f"{names[index]} comes twice")
        if not LABEL.fullmatch(names[index]):
            yield Problem(f"{here}.groupName", f"{names[index]} is no name; take a-z, 0-9 and -")
        yield from _replica_problems(here, group)
        template = group.get("template")
        yield from pod_problems(f"{here}.template", template, ray_version=tested, is_head=False)
    for path, node in [("headGroupSpec", mapping(spec.get("headGroupSpec")))] + [
        (f"workerGroupSpecs[{k}]", group) for k, group in enumerate(groups)
    ]:
        own = mapping(node.get("rayStartParams")).keys() & {"num-cpus", "num-gpus", "memory"}
        if own and node.get("resources"):
            yield Problem(f"{where}.{path}", "resources stand beside rayStartParams; keep one")


def _replica_problems(where: str, group: dict[str, Any]) -> Problems:
    fewest, now, most = (group.get(k) for k in ("minReplicas", "replicas", "maxReplicas"))
    if fewest is None or most is None:
        yield Problem(where, "minReplicas and maxReplicas must both be set")
        return
    counts = [n for n in (fewest, now, most) if isinstance(n, int)]
    if counts != sorted(counts) or any(n < 0 for n in counts):
        yield Problem(
            where,
            f"minReplicas {fewest}, replicas {now}, maxReplicas {most}; expected 0 <= min <= "
            "replicas <= max",
        )


def _autoscaler_problems(where: str, spec: dict[str, Any]) -> Problems:
    is_on = spec.get("enableInTreeAutoscaling") is True
    options = mapping(spec.get("autoscalerOptions"))
    groups = mappings(spec.get("workerGroupSpecs"))
    if not is_on:
        for index, group in enumerate(groups):
            if group.get("minReplicas") != group.get("maxReplicas"):
                yield Problem(
                    f"{where}.workerGroupSpecs[{index}]",
                    "minReplicas and maxReplicas differ, and nothing would ever change the number; "
                    "set enableInTreeAutoscaling: true",
                )
        if options:
            yield Problem(f"{where}.autoscalerOptions", "the autoscaler is off; leave them out")
    nodes = [spec.get("headGroupSpec"), *groups]
    is_second = is_on and options.get("version") == "v2"
    if not is_second and any("idleTimeoutSeconds" in group for group in groups):
        yield Problem(where, "idleTimeoutSeconds of a group needs autoscalerOptions.version: v2")
    if is_second and any(
        at(n, "template", "spec", "restartPolicy") not in (None, "Never") for n in nodes
    ):
        yield Problem(where, "with autoscaler v2 every pod's restartPolicy must be Never")


def _version_problems(where: str, spec: dict[str, Any], tested: str) -> Problems:
    version, authentication = spec.get("rayVersion"), mapping(spec.get("authOptions"))
    if str(version) != tested:
        yield Problem(f"{where}.rayVersion", f"{version}; the image has Ray {tested}")
    if authentication.get("mode") != "token":
        yield Problem(
            f"{where}.authOptions.mode",
            f"{authentication.get('mode')}; expected token: without one, whoever reaches the "
            "dashboard runs code in the cluster",
        )
    numbers = tuple(int(n) for n in re.findall(r"\d+", str(version))[:2])
    if authentication.get("mode") == "token" and numbers < FIRST_WITH_TOKEN:
        yield Problem(f"{where}.rayVersion", f"{version}; tokens need Ray 2.52 or later")
