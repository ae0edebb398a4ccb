"""Rules for the volume and the network policy that stand beside KubeRay's manifests."""

from typing import Any

from cluster.checks.problem import Problem, Problems, at, mapping, mappings, texts
from cluster.checks.quantities import fault

KEYS = {
    "PersistentVolumeClaim": {
        "accessModes", "storageClassName", "resources", "volumeName", "volumeMode", "selector",
        "dataSource", "dataSourceRef", "volumeAttributesClassName",
    },
    "NetworkPolicy": {"podSelector", "policyTypes", "ingress", "egress"},
}  # fmt: skip
"""All keys of their specs."""


def claim_problems(document: dict[str, Any]) -> Problems:
    """A claim for storage that pods on several nodes write at once."""
    spec = mapping(document.get("spec"))
    yield from _key_problems(spec, "PersistentVolumeClaim")
    if "ReadWriteMany" not in texts(spec.get("accessModes")):
        yield Problem(
            "spec.accessModes",
            f"{spec.get('accessModes')}; expected [ReadWriteMany]: all nodes mount it at once",
        )
    storage = at(spec, "resources", "requests", "storage")
    text = fault("storage", storage)
    if text:
        yield Problem("spec.resources.requests.storage", text)


def policy_problems(document: dict[str, Any]) -> Problems:
    """A policy that closes Ray's pods, and opens no rule to everybody."""
    spec = mapping(document.get("spec"))
    yield from _key_problems(spec, "NetworkPolicy")
    if not mapping(at(spec, "podSelector", "matchLabels")):
        yield Problem("spec.podSelector", "no labels: it would close all pods of the namespace")
    if "Ingress" not in texts(spec.get("policyTypes")):
        yield Problem("spec.policyTypes", "expected [Ingress]: without it nothing is closed")
    for index, rule in enumerate(mappings(spec.get("ingress"))):
        peers = mappings(rule.get("from"))
        if not peers or any(not peer for peer in peers):
            yield Problem(f"spec.ingress[{index}]", "names no sender, and so lets everybody in")
        for peer in peers:
            if at(peer, "ipBlock", "cidr") in ("0.0.0.0/0", "::/0"):
                yield Problem(f"spec.ingress[{index}]", "lets every address in")


def _key_problems(spec: dict[str, Any], kind: str) -> Problems:
    for key in sorted(spec.keys() - KEYS[kind]):
        yield Problem(f"spec.{key}", f"no such key of a {kind}")
