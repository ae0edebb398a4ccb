"""Checkpoints: safetensors and JSON in one folder, its manifest written last (DESIGN.md section 7).

A checkpoint is ``step-<n>/`` with ``dense.safetensors``, ``<table>-<first>.safetensors`` (pieces of
the tables that workers hold a block each of, so that they reload at any communicator size), ``state.json``
and ``manifest.json`` (a hash of every file). Damaged or partial ones are skipped on loading.
Nothing is ever unpickled.

Every worker writes the blocks it holds, in a thread of its own while training goes on; rank 0 waits
for the files that say so, writes the manifest and gives the folder its name.
"""

import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load as parse
from safetensors.torch import save_file
from torch import Tensor

from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.errors import require

FORMAT_VERSION = 2
ENTRIES_PER_FILE = 1 << 20
MANIFEST = "manifest.json"
WRITE_PATIENCE_S = 1800.0
"""How long rank 0 waits for the others' files."""
POLL_S = 0.01

Wanted = Mapping[str, range | None]
"""Which tables to read, and which of their entries as far as there are, or all."""


@dataclass(frozen=True)
class Block:
    """What a worker holds of a table: as many entries as its tensors are long, from ``first``."""

    tensors: dict[str, Tensor]
    """[n, ·] each; and scalars, the same for all workers."""
    first: int
    total: int
    """Entries of the whole table."""

    def __post_init__(self) -> None:
        assert len({len(t) for t in self.tensors.values() if t.ndim}) <= 1

    @property
    def entries(self) -> range:
        """Those held here."""
        length = next((len(t) for t in self.tensors.values() if t.ndim), 0)
        return range(self.first, self.first + length)

    def snapshot(self) -> "Block":
        return Block(_snapshot(self.tensors), self.first, self.total)


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint, loaded."""

    step: int
    dense: dict[str, Tensor]
    tables: dict[str, dict[str, Tensor]]
    """Of the tables asked for, the entries asked for: as ``Block.tensors``."""
    state: dict[str, Any]
    """What the training loop keeps besides tensors."""


class Writer:
    """Writes checkpoints in the background, one at a time; all workers use it together."""

    def __init__(self, folder: Path, communicator: Communicator, *, keep: int):
        """``keep`` newest checkpoints stay, and the best."""
        self._folder, self._communicator, self._keep = folder, communicator, keep
        # A name of its own for what is unfinished: a worker of a group that died may still write.
        self._token = communicator.broadcast_object(secrets.token_hex(4))
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        if communicator.is_first:
            for left_over in folder.glob(".partial-*"):
                shutil.rmtree(left_over, ignore_errors=True)

    def save(
        self,
        step: int,
        dense: dict[str, Tensor],
        blocks: Mapping[str, Block],
        state: dict[str, Any],
        *,
        best: int | None = None,
    ) -> None:
        """Take a snapshot and return; it is written while training goes on.

        ``blocks`` are the own ones of each table; ``dense`` and ``state`` count on rank 0.
        Raises ``RuntimeError`` where the disk refused the checkpoint before.
        """
        while not self._communicator.all_true(self._thread is None or not self._thread.is_alive()):
            time.sleep(POLL_S)  # together: the first worker's files wait for those of others
        self.wait()
        dense, taken = _snapshot(dense), {name: b.snapshot() for name, b in blocks.items()}

        def write() -> None:
            try:
                self._write(step, dense, taken, state, best)
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
        blocks: dict[str, Block],
        state: dict[str, Any],
        best: int | None,
    ) -> None:
        target = self._folder / _name(step)
        partial = self._folder / f".partial-{self._token}-{_name(step)}"
        try:
            partial.mkdir(parents=True, exist_ok=True)
            own: dict[str, str] = {}
            for table, block in blocks.items():
                own |= _write_block(partial, table, block)
            if not self._communicator.is_first:
                _write_whole(partial / _part(self._communicator.rank), json.dumps(own))
                return
            scalars = {
                f"{table}/{name}": tensor
                for table, block in blocks.items()
                for name, tensor in block.tensors.items()
                if tensor.ndim == 0
            }
            save_file(dense | scalars, partial / "dense.safetensors")
            sizes = {table: block.total for table, block in blocks.items()}
            kept = {**state, "step": step, "sizes": sizes, "format_version": FORMAT_VERSION}
            (partial / "state.json").write_text(json.dumps(kept, indent=1))
            hashes = own | {n: _hash(partial / n) for n in ("dense.safetensors", "state.json")}
            for rank in range(1, self._communicator.size):
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
        prune(self._folder, upto=step, keep=self._keep, besides=best)


def _write_block(partial: Path, table: str, block: Block) -> dict[str, str]:
    """A block's files, and their hashes."""
    hashes = {}
    for start in range(0, len(block.entries), ENTRIES_PER_FILE):
        path = partial / f"{table}-{block.first + start:012d}.safetensors"
        piece = {
            name: tensor[start : start + ENTRIES_PER_FILE].contiguous()
            for name, tensor in block.tensors.items()
            if tensor.ndim
        }
        save_file(piece, path)
        _sync(path)
        hashes[path.name] = _hash(path)
    return hashes


def _snapshot(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}


def _part(rank: int) -> str:
    """The file that says that a worker's blocks are written."""
    return f"part-{rank:05d}.json"


def _await_part(path: Path) -> dict[str, str]:
    """What another worker wrote, and away with the note that says so."""
    deadline = time.monotonic() + WRITE_PATIENCE_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise OSError(f"another worker's blocks did not come ({path.name})")
        time.sleep(POLL_S)
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
    communicator: Communicator | None = None,
    *,
    wanted: Wanted | None = None,
) -> Checkpoint | None:
    """A checkpoint, or None where it is missing, partial or damaged.

    Workers of a ``communicator`` share the checking of hashes, and all_true; each gets what it wants, or
    everything. Raises ``InputError`` where another version wrote it.
    """
    communicator = communicator or Communicator()
    path = folder / _name(step)
    found, version = None, FORMAT_VERSION
    try:
        hashes = json.loads((path / MANIFEST).read_text())
        mine = sorted(hashes)[communicator.rank :: communicator.size]
        if all(_hash(path / name) == hashes[name] for name in mine):
            state = json.loads((path / "state.json").read_text())
            version = state.get("format_version", 1)
            if version == FORMAT_VERSION:
                found = _read(path, state, hashes, wanted)
    except (OSError, ValueError, AttributeError, KeyError, TypeError, SafetensorError):
        pass
    is_whole = communicator.all_true(found is not None)
    require(
        version == FORMAT_VERSION,
        f"{path} is a checkpoint of format {version}, and this version reads format "
        f"{FORMAT_VERSION}; start a new run=DIR, or go on with the version that wrote it",
    )
    return found if is_whole else None


def _read(
    path: Path, state: dict[str, Any], files: Collection[str], wanted: Wanted | None
) -> Checkpoint:
    dense = parse((path / "dense.safetensors").read_bytes())
    sizes = state["sizes"]
    scalars = {k: dense.pop(k) for k in list(dense) if k.split("/")[0] in sizes}
    tables = {}
    for table, part in (dict.fromkeys(sizes) if wanted is None else wanted).items():
        start = f"{table}/"
        own = {k.removeprefix(start): v for k, v in scalars.items() if k.startswith(start)}
        entries = range(sizes[table])
        if part is not None:
            entries = entries[part.start : part.stop]
        tables[table] = own | _read_table(path, table, files, entries)
    return Checkpoint(state["step"], dense, tables, state)


def _read_table(
    path: Path, table: str, files: Collection[str], entries: range
) -> dict[str, Tensor]:
    """Entries of a table, in place: no more is held than these and a piece of them."""
    found: dict[str, Tensor] = {}
    filled: dict[str, int] = {}
    for name in sorted(name for name in files if name.startswith(f"{table}-")):
        start = int(name.removeprefix(f"{table}-").removesuffix(".safetensors"))
        with safe_open(path / name, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118 (no mapping)
                piece = opened.get_slice(key)
                ends = entries.start - start, entries.stop - start
                a, b = (min(max(end, 0), piece.get_shape()[0]) for end in ends)
                part = piece[a:b]
                if key not in found:
                    is_all = len(part) == len(entries)
                    shape = (len(entries), *part.shape[1:])
                    found[key], filled[key] = part if is_all else part.new_empty(shape), 0
                before, filled[key] = filled[key], filled[key] + len(part)
                if found[key] is not part:
                    found[key][before : filled[key]] = part
    if any(number != len(entries) for number in filled.values()):
        raise ValueError(f"entries of {table} are missing")
    return found


def load_latest(
    folder: Path, communicator: Communicator | None = None, *, wanted: Wanted | None = None
) -> tuple[Checkpoint | None, list[int]]:
    """The newest whole checkpoint, and the newer ones that had to be skipped; as ``load``."""
    communicator = communicator or Communicator()
    skipped: list[int] = []
    for step in reversed(communicator.broadcast_object(steps(folder))):
        found = load(folder, step, communicator, wanted=wanted)
        if found is not None:
            return found, skipped
        skipped.append(step)
    return None, skipped


def newest_state(folder: Path) -> dict[str, Any] | None:
    """What the training loop kept in the newest checkpoint that is readable, unverified."""
    for step in reversed(steps(folder)):
        with suppress(OSError, ValueError):
            state = json.loads((folder / _name(step) / "state.json").read_text())
            if isinstance(state, dict) and "store" in state:
                return state
    return None


def prune(folder: Path, *, upto: int, keep: int, besides: int | None) -> None:
    """Of checkpoints up to a step, delete all but the newest ``keep`` and the one ``besides``.

    Later ones, which were passed over as damaged, do not count as newest.
    """
    for step in [s for s in steps(folder) if s <= upto][:-keep]:
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
