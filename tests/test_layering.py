"""Imports run one way (DESIGN.md section 9)."""

import ast
import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "greatmeta_dist"
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
    "storage": 3,
    "data": 4,
    "batching": 5,
    "engine": 6,
    "evaluation": 7,
    "display": 8,
    "recommend": 8,
    "training": 9,
    "options": 9,
    "export": 10,
    "predict": 10,
    "launch": 11,
    "sweep": 12,
    "commands": 13,
    "cli": 14,
    "__main__": 15,
    "submitted": 16,
}
"""A module may import modules of its own folder or of a lower level."""
FILES = sorted(PACKAGE.rglob("*.py"))


@cache
def imports(path: Path) -> frozenset[str]:
    """Absolute module names a file imports, wherever in it the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return frozenset(names)


def unit(name: str) -> str:
    return name.split(".")[0]


def packages(path: Path) -> set[str]:
    """Top-level packages a file imports."""
    return {unit(name) for name in imports(path)}


def test_every_folder_and_module_has_a_level():
    units = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in FILES}
    assert units - {"__init__"} == LEVELS.keys()


def test_the_house_as_documented_names_every_module():
    house = (ROOT / "docs" / "DESIGN.md").read_text().partition("greatmeta_dist/\n")[2]
    house = house.partition("configs/ ")[0]
    folders = re.split(r"^  (\w+)/", house, flags=re.MULTILINE)
    words = {"": set(re.findall(r"\w+", house))}
    words |= {k: set(re.findall(r"\w+", v)) for k, v in zip(*[iter(folders[1:])] * 2, strict=True)}
    missing = []
    for path in FILES:
        *parents, name = path.relative_to(PACKAGE).with_suffix("").parts
        documented = words.get(parents[0] if parents else "", set())
        if name != "__init__" and not {name, *parents[1:]} & documented:
            missing.append(str(path.relative_to(PACKAGE)))
    assert not missing


def test_imports_run_one_way():
    for path in FILES:
        importer = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if importer == "__init__":
            continue
        for name in imports(path):
            if name.startswith("greatmeta_dist."):
                imported = unit(name.removeprefix("greatmeta_dist."))
                is_below = LEVELS.get(imported, 99) < LEVELS[importer]
                assert imported == importer or is_below, f"{path} imports {name}"


def test_no_module_imports_itself_through_others():
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES)
    modules = dict(zip((n.removesuffix(".__init__") for n in names), FILES, strict=True))
    done: set[str] = set()

    def visit(module: str, importers: tuple[str, ...]) -> None:
        assert module not in importers, " → ".join((*importers, module))
        if module not in done:
            for name in sorted(imports(modules[module]) & modules.keys() - {module}):
                visit(name, (*importers, module))
            done.add(module)

    for module in modules:
        visit(module, ())


def test_meta_imports_torch_and_the_standard_library_only():
    allowed = {"torch", *sys.stdlib_module_names}
    for path in (PACKAGE / "meta").rglob("*.py"):
        for name in imports(path):
            is_meta = name.startswith("greatmeta_dist.meta")
            assert is_meta or unit(name) in allowed, f"{path} imports {name}"


def test_priors_know_no_store():
    for path in (PACKAGE / "priors").rglob("*.py"):
        assert not packages(path) & {"polars", "pyarrow", "ray", "hydra", "omegaconf"}, path


def test_polars_stops_at_data():
    for path in FILES:
        if path.relative_to(PACKAGE).parts[0] != "data":
            assert "polars" not in packages(path), path


def test_only_launch_knows_ray():
    for path in FILES:
        if path.relative_to(PACKAGE).parts[0] != "launch":
            assert "ray" not in packages(path), path
