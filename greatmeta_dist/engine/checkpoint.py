"""Checkpoints: safetensors and JSON in one folder, its manifest written last (DESIGN.md section 7).

A checkpoint is ``step-<n>/`` with ``dense.safetensors``, ``rows-<first>.safetensors`` (blocks of
embedding rows, so that they reload at any world size), ``state.json`` and ``manifest.json`` (a hash
of every file). Damaged or partial ones are skipped on loading. Nothing is ever unpickled.

Every worker writes the rows it holds, in a thread of its own while training goes on; rank 0 waits
for the files that say so, writes the manifest and gives the folder its name.
"""

import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as parse
from safetensors.torch import save_file
from torch import Tensor

from greatmeta_dist.engine.world import World

ROWS_PER_BLOCK = 1 << 20
MANIFEST = "manifest.json"
WRITE_PATIENCE_S = 1800.0
"""How long rank 0 waits for the others' files."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint, loaded."""

    step: int
    dense: dict[str, Tensor]
    rows: dict[str, Tensor]
    """Of the rows asked for: [n, ·], and the scalars that go with them."""
    state: dict[str, Any]
    """What the training loop keeps besides tensors."""


class Writer:
    """Writes checkpoints in the background, one at a time; all workers use it together."""

    def __init__(self, folder: Path, world: World, *, keep: int):
        """``keep`` newest checkpoints stay, and the best."""
        self._folder, self._world, self._keep = folder, world, keep
        # A name of its own for what is unfinished: a worker of a group that died may still write.
        self._token = world.share(secrets.token_hex(4))
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        if world.is_first:
            for left_over in folder.glob(".partial-*"):
                shutil.rmtree(left_over, ignore_errors=True)

    def save(
        self,
        step: int,
        dense: dict[str, Tensor],
        rows: dict[str, Tensor],
        state: dict[str, Any],
        *,
        first_row: int = 0,
        best: int | None = None,
    ) -> None:
        """Take a snapshot and return; it is written while training goes on.

        ``rows`` [n, ·] are those from ``first_row``; ``dense`` and ``state`` count on rank 0.
        Raises ``RuntimeError`` where the disk refused the checkpoint before.
        """
        self.wait()
        dense, rows = _snapshot(dense), _snapshot(rows)

        def write() -> None:
            try:
                self._write(step, dense, rows, state, first_row, best)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=write, name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what went wrong in the background, if anything did."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Until the last checkpoint is whole; raises what went wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _write(
        self,
        step: int,
        dense: dict[str, Tensor],
        rows: dict[str, Tensor],
        state: dict[str, Any],
        first_row: int,
        best: int | None,
    ) -> None:
        target = self._folder / _name(step)
        partial = self._folder / f".partial-{self._token}-{_name(step)}"
        try:
            partial.mkdir(parents=True, exist_ok=True)
            own = self._write_rows(partial, rows, first_row)
            if not self._world.is_first:
                _write_whole(partial / _part(self._world.rank), json.dumps(own))
                return
            scalars = {f"rows/{k}": v for k, v in rows.items() if v.ndim == 0}
            save_file(dense | scalars, partial / "dense.safetensors")
            (partial / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
            hashes = own | {n: _hash(partial / n) for n in ("dense.safetensors", "state.json")}
            for rank in range(1, self._world.size):
                hashes |= _await_part(partial / _part(rank))
            for name in ("dense.safetensors", "state.json"):
                _sync(partial / name)
            _write_whole(partial / MANIFEST, json.dumps(hashes, indent=1))
            _sync(partial)
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            _sync(self._folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise RuntimeError(
                f"cannot write the checkpoint {target}: {getattr(error, 'strerror', '') or error}; "
                "free the disk and run the same command again"
            ) from error
        prune(self._folder, keep=self._keep, besides=best)

    def _write_rows(self, partial: Path, rows: dict[str, Tensor], first_row: int) -> dict[str, str]:
        """The own rows' files, and their hashes."""
        blocks = {k: v for k, v in rows.items() if v.ndim}
        num_rows = max((len(v) for v in blocks.values()), default=0)
        hashes = {}
        for start in range(0, num_rows, ROWS_PER_BLOCK):
            path = partial / f"rows-{first_row + start:012d}.safetensors"
            block = {n: v[start : start + ROWS_PER_BLOCK].contiguous() for n, v in blocks.items()}
            save_file(block, path)
            _sync(path)
            hashes[path.name] = _hash(path)
        return hashes


def _snapshot(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}


def _part(rank: int) -> str:
    """The file that says that a worker's rows are written."""
    return f"part-{rank:05d}.json"


def _await_part(path: Path) -> dict[str, str]:
    """What another worker wrote, and away with the note that says so."""
    deadline = time.monotonic() + WRITE_PATIENCE_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise OSError(f"another worker's rows did not come ({path.name})")
        time.sleep(0.01)
    found: dict[str, str] = json.loads(path.read_text())
    path.unlink()
    return found


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, whole or damaged, ascending."""
    names = (p.name.removeprefix("step-") for p in folder.glob("step-*"))
    return sorted(int(name) for name in names if name.isdigit())


def load(
    folder: Path,
    step: int,
    world: World | None = None,
    *,
    rows: Callable[[int], tuple[int, int]] = lambda num_rows: (0, num_rows),
) -> Checkpoint | None:
    """A checkpoint, or None where it is missing, partial or damaged.

    Workers of a ``world`` share the checking of hashes, and agree; each gets the rows that
    ``rows`` says, (first, last) of so many in all. Without, all is read.
    """
    world = world or World()
    path = folder / _name(step)
    found = None
    try:
        hashes = json.loads((path / MANIFEST).read_text())
        mine = sorted(hashes)[world.rank :: world.size]
        if all(_hash(path / name) == hashes[name] for name in mine):
            found = _read(path, hashes, rows)
    except (OSError, ValueError, AttributeError, KeyError, TypeError, SafetensorError):
        pass
    return found if world.agree(found is not None) else None


def _read(path: Path, hashes: dict[str, str], rows: Callable[[int], tuple[int, int]]) -> Checkpoint:
    state = json.loads((path / "state.json").read_text())
    dense = parse((path / "dense.safetensors").read_bytes())
    scalars = {k.removeprefix("rows/"): dense.pop(k) for k in list(dense) if k.startswith("rows/")}
    starts = {
        int(name.removeprefix("rows-").removesuffix(".safetensors")): path / name
        for name in sorted(hashes)
        if name.startswith("rows-")
    }
    first, last = rows(state["num_rows"])
    blocks: dict[str, list[Tensor]] = {}
    for start, file in starts.items():
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (no mapping)
                part = opened.get_slice(name)
                a, b = (min(max(end - start, 0), part.get_shape()[0]) for end in (first, last))
                blocks.setdefault(name, []).append(part[a:b])
    joined = {name: torch.cat(parts) for name, parts in blocks.items()}
    if any(len(tensor) != last - first for tensor in joined.values()):
        raise ValueError("rows are missing")
    return Checkpoint(state["step"], dense, scalars | joined, state)


def load_latest(
    folder: Path,
    world: World | None = None,
    *,
    rows: Callable[[int], tuple[int, int]] = lambda num_rows: (0, num_rows),
) -> tuple[Checkpoint | None, list[int]]:
    """The newest whole checkpoint, and the newer ones that had to be skipped; as ``load``."""
    world = world or World()
    skipped: list[int] = []
    for step in reversed(world.share(steps(folder))):
        found = load(folder, step, world, rows=rows)
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


def _write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(text)
    _sync(partial)
    partial.rename(path)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
