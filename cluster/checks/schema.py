"""KubeRay's published schemas: types, required keys, and keys that no schema knows.

Kubernetes drops unknown keys, often without a word: a misspelt ``shutdownAfterJobFinishes`` is a
cluster that stays for ever. JSON Schema alone does not refuse them.
"""

from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from cluster.checks.problem import Problem, Problems
from greatmeta_dist.errors import require

FILES = {"RayJob": "ray.io_rayjobs.yaml", "RayCluster": "ray.io_rayclusters.yaml"}
VERSION = "v1"
TOP = {
    "apiVersion": {"type": "string"},
    "kind": {"type": "string"},
    "metadata": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "namespace": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    },
}
"""What Kubernetes adds to every schema; ``metadata`` with the keys that people write."""


@cache
def published_schema(kind: str, folder: Path) -> dict[str, Any]:
    """The schema of a kind, read from the operator's resource definition; takes about 2 s."""
    path = folder / FILES[kind]
    require(path.is_file(), f"{path} does not exist; expected KubeRay's definition of {kind} there")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load(path.read_text(), loader)
    for version in definition["spec"]["versions"]:
        if version["name"] == VERSION:
            schema = version["schema"]["openAPIV3Schema"]
            return {**schema, "properties": schema["properties"] | TOP}
    require(False, f"{path} has no version {VERSION}")
    raise AssertionError


def schema_problems(document: Any, schema: dict[str, Any]) -> Problems:
    """Wrong types, missing keys, unknown keys."""
    for error in Draft202012Validator(schema).iter_errors(document):
        yield Problem(_path(error.absolute_path), error.message.splitlines()[0])
    yield from _unknown_keys(document, schema, "")


def _unknown_keys(value: Any, schema: dict[str, Any], where: str) -> Problems:
    if isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _unknown_keys(entry, schema.get("items", {}), f"{where}[{index}]")
    if not isinstance(value, dict):
        return
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or not (known or others)
    for key, inner in value.items():
        here = f"{where}.{key}".lstrip(".")
        if key in known:
            yield from _unknown_keys(inner, known[key], here)
        elif isinstance(others, dict):
            yield from _unknown_keys(inner, others, here)
        elif not is_open:
            near = get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
            yield Problem(here, f"no such key: {hint}")


def _path(keys: Any) -> str:
    path = ""
    for key in keys:
        path += f"[{key}]" if isinstance(key, int) else f".{key}"
    return path.lstrip(".")
