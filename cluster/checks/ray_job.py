"""Rules for a RayJob that KubeRay's schema does not have.

Some are the operator's own, which it tells only once the file is applied
(``ray-operator/controllers/ray/utils/validation.go`` of KubeRay 1.7.0). The others are ours.
"""

from typing import Any

from cluster.checks.entrypoint import command_problems
from cluster.checks.pods import image_problems, security_problems
from cluster.checks.problem import Problem, Problems, at, mapping, mappings, read_yaml
from cluster.checks.ray_cluster import (
    cluster_problems,
    gpus_of_pods,
    name_problems,
    shared_by_all,
)
from greatmeta_dist.errors import InputError

MODES = ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")


def ray_job_problems(document: dict[str, Any], *, tested: str) -> Problems:
    """All rules for a RayJob; ``tested`` is the Ray that the image has."""
    yield from name_problems(document, "RayJob")
    spec = mapping(document.get("spec"))
    yield from _submission_problems(spec)
    yield from _ending_problems(spec)
    yield from _number_problems(spec)
    yield from _submitter_problems(spec, tested)
    cluster = mapping(spec.get("rayClusterSpec"))
    yield from _cluster_choice_problems(spec)
    if cluster:
        yield from cluster_problems("spec.rayClusterSpec", cluster, tested=tested)
    if spec.get("entrypoint"):
        yield from command_problems(
            "spec.entrypoint",
            str(spec["entrypoint"]),
            shared=shared_by_all(cluster) if cluster else None,
            gpus_of_pods=gpus_of_pods(cluster),
        )


def _submission_problems(spec: dict[str, Any]) -> Problems:
    mode, head = spec.get("submissionMode"), at(spec, "rayClusterSpec", "headGroupSpec")
    if mode not in MODES:
        yield Problem(
            "spec.submissionMode", f"{mode}; expected one of {', '.join(MODES)}, with the reason"
        )
    if bool(spec.get("entrypoint")) == (mode == "InteractiveMode"):
        yield Problem(
            "spec.entrypoint",
            "InteractiveMode waits for somebody's own job: leave the entrypoint out"
            if mode == "InteractiveMode"
            else "no entrypoint: the cluster would start and do nothing",
        )
    if mode == "InteractiveMode" and spec.get("backoffLimit"):
        yield Problem("spec.backoffLimit", "InteractiveMode allows no retries")
    if mode == "SidecarMode":
        for key in ("submitterPodTemplate", "submitterConfig", "clusterSelector"):
            if key in spec:
                yield Problem(f"spec.{key}", "SidecarMode does not allow it")
        if at(head, "template", "spec", "restartPolicy") not in (None, "Never"):
            yield Problem("spec.rayClusterSpec.headGroupSpec", "SidecarMode: restartPolicy Never")


def _ending_problems(spec: dict[str, Any]) -> Problems:
    is_shut, ttl = spec.get("shutdownAfterJobFinishes") is True, spec.get("ttlSecondsAfterFinished")
    strategy = mapping(spec.get("deletionStrategy"))
    rules = strategy.get("deletionRules")
    if ttl and not is_shut:
        yield Problem(
            "spec.ttlSecondsAfterFinished", "does nothing without shutdownAfterJobFinishes: true"
        )
    if rules and (is_shut or strategy.keys() & {"onSuccess", "onFailure"}):
        yield Problem(
            "spec.deletionStrategy",
            "deletionRules do not go with shutdownAfterJobFinishes, onSuccess or onFailure",
        )
    if spec.get("suspend") and not is_shut:
        yield Problem("spec.suspend", "only a job with shutdownAfterJobFinishes can be suspended")
    if not (is_shut or rules or spec.get("clusterSelector")):
        yield Problem(
            "spec.shutdownAfterJobFinishes", "the cluster would stay, and cost GPUs, for ever"
        )


def _number_problems(spec: dict[str, Any]) -> Problems:
    for key, least in (
        ("ttlSecondsAfterFinished", 0),
        ("backoffLimit", 0),
        ("activeDeadlineSeconds", 1),
        ("preRunningDeadlineSeconds", 1),
    ):
        value = spec.get(key)
        if isinstance(value, int) and value < least:
            yield Problem(f"spec.{key}", f"{value}; expected {least} or more")
    try:
        read_yaml(str(spec.get("runtimeEnvYAML", "")))
    except InputError as error:
        yield Problem("spec.runtimeEnvYAML", str(error))


def _cluster_choice_problems(spec: dict[str, Any]) -> Problems:
    if bool(spec.get("rayClusterSpec")) == bool(spec.get("clusterSelector")):
        yield Problem("spec", "expected either rayClusterSpec or clusterSelector")
    if spec.get("clusterSelector") and spec.get("backoffLimit"):
        yield Problem("spec.backoffLimit", "a job in a cluster that stays cannot be retried")
    if at(spec, "rayClusterSpec", "authOptions", "enableK8sTokenAuth"):
        yield Problem("spec.rayClusterSpec.authOptions.enableK8sTokenAuth", "not for a RayJob")


def _submitter_problems(spec: dict[str, Any], tested: str) -> Problems:
    template = spec.get("submitterPodTemplate")
    if template is not None:
        where, pod = "spec.submitterPodTemplate", mapping(at(template, "spec"))
        yield from security_problems(where, pod)
        for index, container in enumerate(mappings(pod.get("containers"))[:1]):
            here = f"{where}.spec.containers[{index}].image"
            yield from image_problems(here, container.get("image"), tested)
