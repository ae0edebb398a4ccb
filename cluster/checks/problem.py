"""What a rule says about a file, and reading of YAML whose form is not yet known to be right."""

import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from greatmeta_dist.errors import InputError

ROOT = Path(__file__).parent.parent.parent
PLACEHOLDER = re.compile(r"REPLACE-[A-Z][A-Z-]*")
"""Stands for a value that only the reader of a file can know."""


class Problem(NamedTuple):
    """One thing that is wrong."""

    where: str
    """The keys that lead to it, with dots between them."""
    text: str
    """What was found, what was expected, what to do."""


Problems = Iterator[Problem]


class _UniqueKeys(yaml.SafeLoader):
    """YAML lets a second key of the same name win without a word; this loader refuses it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise InputError(f"line {key.start_mark.line + 1}: the key {key.value} comes twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> list[Any]:
    """The documents of a YAML file; raises ``InputError`` in one line."""
    try:
        return [d for d in yaml.load_all(text, _UniqueKeys) if d is not None]
    except yaml.YAMLError as error:
        raise InputError(f"this is no YAML: {' '.join(str(error).split())}") from error


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a mapping; else an empty one, for a schema says that it is wrong."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> list[dict[str, Any]]:
    """The mappings of a list; empty where the value is no list."""
    return [mapping(entry) for entry in value] if isinstance(value, list) else []


def texts(value: Any) -> list[str]:
    """The entries of a list as text; empty where the value is no list."""
    return [str(entry) for entry in value] if isinstance(value, list) else []


def at(value: Any, *keys: str) -> Any:
    """What stands below some keys of nested mappings; None where one is missing."""
    for key in keys:
        value = mapping(value).get(key)
    return value


def placeholders(value: Any) -> Problems:
    """Each placeholder that a document still has, where it comes first."""
    first: dict[str, str] = {}
    for where, text in _texts_inside(value, ""):
        for name in PLACEHOLDER.findall(text):
            first.setdefault(name, where)
    for name, where in first.items():
        yield Problem(where, f"{name} is still to be replaced by a value of yours")


def _texts_inside(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts_inside(inner, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts_inside(inner, f"{where}[{index}]")
    elif isinstance(value, str):
        yield where, value


def pinned_ray() -> str:
    """The version of Ray in constraints.txt: the one that this package is tested with."""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.startswith("ray=="):
            return line.removeprefix("ray==")
    raise InputError("constraints.txt names no ray==VERSION")
