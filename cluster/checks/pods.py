"""Rules for a pod of Ray, head or worker, and for a submitter's."""

import re
from collections.abc import Iterator
from typing import Any

from cluster.checks.problem import Problem, Problems, at, mapping, mappings
from cluster.checks.quantities import amount, fault

STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
SHORTEST_STOP_S = 30
"""A checkpoint of a large model takes that long."""
DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
"""How long Ray waits after SIGTERM, once it has told the cluster that the node goes."""
ENDING_S = 15
"""What Ray needs after that to end its processes."""
DEFAULT_S = 30
"""Of Ray's wait, and of Kubernetes' until SIGKILL."""
SHM = "/dev/shm"
RAY_IN_TAG = re.compile(r"ray(\d+\.\d+\.\d+)")


def image_problems(where: str, image: Any, ray_version: str) -> Problems:
    """An image has a tag of its own, with the Ray that the cluster says."""
    name = str(image or "")
    tag = name.rpartition("/")[2].partition(":")[2]
    if not name:
        yield Problem(where, "no image is named")
    elif "@sha256:" not in name and tag in ("", "latest"):
        yield Problem(where, f"{name} is another image tomorrow; name a tag that stays")
    match = RAY_IN_TAG.search(tag)
    if match and match[1] != ray_version:
        yield Problem(where, f"{name} has Ray {match[1]}, and the cluster says {ray_version}")


def pod_problems(where: str, template: Any, *, ray_version: str, is_head: bool) -> Problems:
    """All rules for the pod of a Ray node."""
    spec = mapping(at(template, "spec"))
    containers = mappings(spec.get("containers"))
    if not containers:
        yield Problem(f"{where}.spec.containers", "no container; the first one is Ray's")
        return
    ray, here = containers[0], f"{where}.spec.containers[0]"
    yield from image_problems(f"{here}.image", ray.get("image"), ray_version)
    yield from _resource_problems(here, mapping(ray.get("resources")))
    yield from _environment_problems(here, mappings(ray.get("env")), is_head)
    yield from _grace_problems(where, spec, mappings(ray.get("env")))
    yield from _volume_problems(where, spec)
    yield from _shared_memory_problems(where, spec)
    yield from security_problems(where, spec)


def security_problems(where: str, spec: dict[str, Any]) -> Problems:
    """Whoever submits a job may run any code, so a pod has no rights that it does not need."""
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield Problem(f"{where}.spec.{key}", "opens the pod to the node; leave it out")
    pod = mapping(spec.get("securityContext"))
    for index, container in enumerate(mappings(spec.get("containers"))):
        here = f"{where}.spec.containers[{index}].securityContext"
        rights = pod | mapping(container.get("securityContext"))
        if rights.get("privileged"):
            yield Problem(here, "the container is privileged; it needs no such right")
        if rights.get("runAsNonRoot") is not True or rights.get("runAsUser") == 0:
            yield Problem(here, "the container may run as root; set runAsNonRoot: true")
        if rights.get("allowPrivilegeEscalation") is not False:
            yield Problem(here, "set allowPrivilegeEscalation: false")


def shared_paths(template: Any) -> set[str]:
    """Where the Ray container mounts volumes that other pods may mount as well."""
    spec = mapping(at(template, "spec"))
    shared = {
        str(volume.get("name"))
        for volume in mappings(spec.get("volumes"))
        if volume.keys() & {"persistentVolumeClaim", "nfs", "csi", "cephfs", "azureFile"}
    }
    return {str(m.get("mountPath")) for m in _mounts(spec) if str(m.get("name")) in shared}


def gpus(template: Any) -> float:
    """GPUs of a pod's Ray container."""
    limits = mapping(at(next(iter(_containers(template)), {}), "resources", "limits"))
    return sum(amount(limits[key]) or 0 for key in limits if str(key).endswith("/gpu"))


def _containers(template: Any) -> list[dict[str, Any]]:
    return mappings(at(template, "spec", "containers"))


def _mounts(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for container in mappings(spec.get("containers"))[:1]:
        yield from mappings(container.get("volumeMounts"))


def _resource_problems(where: str, resources: dict[str, Any]) -> Problems:
    requests, limits = mapping(resources.get("requests")), mapping(resources.get("limits"))
    for side, quantities in (("requests", requests), ("limits", limits)):
        for name, quantity in quantities.items():
            text = fault(name, quantity)
            if text:
                yield Problem(f"{where}.resources.{side}.{name}", text)
    for name in ("cpu", "memory"):
        if name not in limits:
            yield Problem(
                f"{where}.resources.limits", f"no {name}; Ray reads there how much it may use"
            )
    for name in sorted(requests.keys() | limits.keys()):
        if "/" in name or name == "memory":
            asked, most = requests.get(name, limits.get(name)), limits.get(name)
            if amount(asked) != amount(most):
                yield Problem(
                    f"{where}.resources.requests.{name}",
                    f"{asked}, and the limit is {most}; expected the same: neither a device nor "
                    "memory can be taken back",
                )


def _environment_problems(where: str, variables: list[dict[str, Any]], is_head: bool) -> Problems:
    names = [str(variable.get("name")) for variable in variables]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem(f"{where}.env", f"{name} comes twice")
    values = {str(variable.get("name")): variable.get("value") for variable in variables}
    for secret in (name for name, value in values.items() if value):
        if re.search(r"TOKEN$|PASSWORD|SECRET", secret):
            yield Problem(
                f"{where}.env", f"{secret} stands here for all to read; use a secretKeyRef"
            )
    if is_head:
        wait = str(values.get(STOP_WAIT, ""))
        if not wait.isdigit() or int(wait) < SHORTEST_STOP_S:
            yield Problem(
                f"{where}.env",
                f"{STOP_WAIT} is {wait or 'not set'}; a stopped job needs {SHORTEST_STOP_S} s or "
                "more for its checkpoint, and Ray gives 3",
            )


def _grace_problems(where: str, spec: dict[str, Any], variables: list[dict[str, Any]]) -> Problems:
    values = {str(variable.get("name")): variable.get("value") for variable in variables}
    drain = amount(values.get(DRAIN, DEFAULT_S)) or 0
    grace = spec.get("terminationGracePeriodSeconds", DEFAULT_S)
    if isinstance(grace, int) and grace < drain + ENDING_S:
        yield Problem(
            f"{where}.spec.terminationGracePeriodSeconds",
            f"{grace} s, and Ray drains for {drain:g}; expected {drain + ENDING_S:g} or more",
        )


def _volume_problems(where: str, spec: dict[str, Any]) -> Problems:
    names = [volume.get("name") for volume in mappings(spec.get("volumes"))]
    for index, volume in enumerate(mappings(spec.get("volumes"))):
        limit = at(volume, "emptyDir", "sizeLimit")
        text = fault("sizeLimit", limit) if limit is not None else None
        if text:
            yield Problem(f"{where}.spec.volumes[{index}].emptyDir.sizeLimit", text)
    for mount in _mounts(spec):
        if mount.get("name") not in names:
            yield Problem(
                f"{where}.spec.containers[0].volumeMounts",
                f"{mount.get('name')} is no volume of this pod: {', '.join(map(str, names))}",
            )


def _shared_memory_problems(where: str, spec: dict[str, Any]) -> Problems:
    here = f"{where}.spec.containers[0].volumeMounts"
    name = next((m.get("name") for m in _mounts(spec) if m.get("mountPath") == SHM), None)
    volume = next((v for v in mappings(spec.get("volumes")) if v.get("name") == name), {})
    room = mapping(volume.get("emptyDir"))
    if name is None:
        yield Problem(here, f"nothing is mounted at {SHM}; a container has 64 MiB there")
    elif room.get("medium") != "Memory" or "sizeLimit" not in room:
        yield Problem(here, f"{SHM} is no emptyDir with medium: Memory and a sizeLimit")
    else:
        memory = at(mappings(spec.get("containers"))[0], "resources", "limits", "memory")
        size, most = amount(room["sizeLimit"]), amount(memory)
        if size is not None and most is not None and size > most / 2:
            yield Problem(
                here,
                f"{SHM} may take {room['sizeLimit']} of {memory}, for it counts as memory; "
                "expected half of it at most",
            )
