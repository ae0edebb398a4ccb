"""Imports run one way (DESIGN.md section 9)."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "greatmeta_dist"
LEVELS = {
    "errors": 0,
    "ragged": 0,
    "processors": 0,
    "extensions": 1,
    "config": 2,
    "files": 2,
    "signals": 2,
    "meta": 2,
    "priors": 3,
    "data": 4,
    "batching": 5,
    "engine": 6,
    "evaluation": 7,
    "display": 8,
    "training": 9,
    "options": 9,
    "launch": 10,
    "predict": 10,
    "commands": 11,
    "cli": 12,
    "__main__": 13,
}
"""A module may import modules of its own folder or of a lower level."""


def imports(path: Path) -> set[str]:
    """Absolute module names a file imports, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def unit(name: str) -> str:
    return name.split(".")[0]


def test_imports_run_one_way():
    for path in PACKAGE.rglob("*.py"):
        own = unit(".".join(path.relative_to(PACKAGE).with_suffix("").parts))
        if own == "__init__":
            continue
        for name in imports(path):
            if name.startswith("greatmeta_dist."):
                other = unit(name.removeprefix("greatmeta_dist."))
                assert other == own or LEVELS[other] < LEVELS[own], f"{path} imports {name}"


def test_meta_imports_torch_only():
    allowed = {
        "torch",
        "greatmeta_dist",
        "collections",
        "dataclasses",
        "functools",
        "typing",
        "math",
    }
    for path in (PACKAGE / "meta").rglob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] in allowed, f"{path} imports {name}"


def test_polars_stops_at_data():
    for path in PACKAGE.rglob("*.py"):
        if "data" not in path.relative_to(PACKAGE).parts:
            assert not any(n.split(".")[0] == "polars" for n in imports(path)), path


def test_only_launch_knows_ray():
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "launch":
            assert not any(n.split(".")[0] == "ray" for n in imports(path)), path
