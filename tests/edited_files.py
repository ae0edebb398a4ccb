"""A shipped file with one edit, and what the checker says about it."""

from pathlib import Path

import yaml

from cluster.check import file_problems
from cluster.checks.problem import ROOT

CLUSTER = ROOT / "cluster"


def edited(name: str, old: str, new: str) -> str:
    """The text of a file of ``cluster/`` with the first ``old`` replaced; it must be there."""
    text = (CLUSTER / name).read_text()
    assert old in text, f"{name} has no {old!r}"
    return text.replace(old, new, 1)


def said_of(name: str, old: str, new: str, folder: Path, schemas: Path | None = None) -> list[str]:
    """Every problem of the edited file, as ``where: text``."""
    path = folder / Path(name).name
    path.write_text(edited(name, old, new))
    problems = file_problems(path, schemas=schemas, is_template=True)
    return [f"{problem.where}: {problem.text}" for problem in problems]


def assert_says(said: list[str], expected: str) -> None:
    """One of the problems holds the expected words, and each is one line."""
    assert any(expected in line for line in said), said
    assert all("\n" not in line for line in said), said


def plain(path: Path) -> dict:
    """A YAML file as data, its anchors resolved."""
    return yaml.safe_load(path.read_text())
