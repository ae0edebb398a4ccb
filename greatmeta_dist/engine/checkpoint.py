"""Checkpoints: safetensors and JSON in one folder, its manifest written last (DESIGN.md section 7).

A checkpoint is ``step-<n>/`` with ``dense.safetensors``, ``rows-<k>.safetensors`` (blocks of
embedding rows, so that they reload at any world size), ``state.json`` and ``manifest.json`` (a hash
of every file). Damaged or partial ones are skipped on loading. Nothing is ever unpickled.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save_file
from torch import Tensor

ROWS_PER_BLOCK = 1 << 20
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint, loaded."""

    step: int
    dense: dict[str, Tensor]
    rows: dict[str, Tensor]
    state: dict[str, Any]
    """What the training loop keeps besides tensors."""


def save(
    folder: Path,
    step: int,
    dense: dict[str, Tensor],
    rows: dict[str, Tensor],
    state: dict[str, Any],
) -> Path:
    """Write a checkpoint beside the others; it appears whole or not at all.

    Scalars among ``rows`` (a step count) travel with the dense tensors. Raises ``RuntimeError``
    where the disk refuses; the checkpoints before stay as they are.
    """
    target = folder / _name(step)
    partial = folder / f".partial-{_name(step)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        scalars = {f"rows/{k}": v for k, v in rows.items() if v.ndim == 0}
        blocks = {k: v for k, v in rows.items() if v.ndim}
        _save_tensors(partial / "dense.safetensors", dense | scalars)
        num_rows = max((v.shape[0] for v in blocks.values()), default=0)
        for k, start in enumerate(range(0, num_rows, ROWS_PER_BLOCK)):
            block = {n: v[start : start + ROWS_PER_BLOCK] for n, v in blocks.items()}
            _save_tensors(partial / f"rows-{k:05d}.safetensors", block)
        (partial / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
        hashes = {p.name: _hash(p) for p in sorted(partial.iterdir())}
        (partial / MANIFEST).write_text(json.dumps(hashes, indent=1))
        for path in partial.iterdir():
            _sync(path)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        _sync(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RuntimeError(
            f"cannot write the checkpoint {target}: {error.strerror or error}; "
            "free the disk and run the same command again"
        ) from error
    return target


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, whole or damaged, ascending."""
    names = (p.name.removeprefix("step-") for p in folder.glob("step-*"))
    return sorted(int(name) for name in names if name.isdigit())


def load(folder: Path, step: int) -> Checkpoint | None:
    """A checkpoint, or None where it is missing, partial or damaged."""
    path = folder / _name(step)
    try:
        hashes = json.loads((path / MANIFEST).read_text())
        # Each file is read once, so what is hashed is what is used.
        content = {name: (path / name).read_bytes() for name in hashes}
        if any(
            hashlib.sha256(content[n]).hexdigest() != expected for n, expected in hashes.items()
        ):
            return None
        state = json.loads(content["state.json"])
        dense = parse(content["dense.safetensors"])
        blocks = [parse(content[name]) for name in sorted(hashes) if name.startswith("rows-")]
    except (OSError, ValueError, AttributeError, KeyError, SafetensorError):
        return None
    rows = {k.removeprefix("rows/"): dense.pop(k) for k in list(dense) if k.startswith("rows/")}
    rows |= {name: torch.cat([b[name] for b in blocks]) for name in (blocks[0] if blocks else {})}
    return Checkpoint(step, dense, rows, state)


def load_latest(folder: Path) -> tuple[Checkpoint | None, list[int]]:
    """The newest whole checkpoint, and the newer ones that had to be skipped."""
    skipped: list[int] = []
    for step in reversed(steps(folder)):
        found = load(folder, step)
        if found is not None:
            return found, skipped
        skipped.append(step)
    return None, skipped


def prune(folder: Path, *, keep: int, besides: int | None) -> None:
    """Delete all but the newest ``keep`` checkpoints and the one named ``besides``."""
    for step in steps(folder)[:-keep]:
        if step != besides:
            shutil.rmtree(folder / _name(step), ignore_errors=True)


def _name(step: int) -> str:
    return f"step-{step:09d}"


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, path)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
