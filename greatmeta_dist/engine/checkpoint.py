"""Checkpoints on disk: their format, and how they are read (DESIGN.md section 7).

A checkpoint is a folder ``step-<n>``:

- ``dense.safetensors``: tensors that one worker holds whole, and the scalars of tables;
- ``<table>-<first>.safetensors``: entries of a table from ``<first>`` on. Each worker writes the
  block of entries that it holds, in several files if it is large. Any number of workers can read
  them back, each the entries that it now holds;
- ``state.json``: what the training loop keeps besides tensors, the tables' sizes and the format's
  version;
- ``manifest.json``: the SHA-256 of every other file, written last.

A checkpoint whose manifest is missing, or whose files do not match it, is damaged: loading skips it
for the one before. Nothing is ever unpickled, so a checkpoint from elsewhere cannot run code.

``checkpoint_writer.py`` writes them, and ``checkpoint_objects.py`` has them on object stores.
"""

import itertools
import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load as parse
from torch import Tensor

from greatmeta_dist.engine import checkpoint_objects as objects
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.errors import require
from greatmeta_dist.files import sha256

FOLDER = "checkpoints"
"""Of a run."""
FORMAT_VERSION = 2
MANIFEST, STATE, DENSE = objects.MANIFEST, "state.json", "dense.safetensors"
Wanted = objects.Wanted


@dataclass(frozen=True)
class Block:
    """Entries of a table that a worker holds: ``first`` and those behind it."""

    tensors: dict[str, Tensor]
    """[n, ·], entry by entry; and scalars, which are the same on all workers."""
    first: int
    total: int
    """Entries of the whole table."""

    def __post_init__(self) -> None:
        assert len({len(t) for t in self.tensors.values() if t.ndim}) <= 1

    @property
    def entries(self) -> range:
        """Which entries of the table these are."""
        length = next((len(t) for t in self.tensors.values() if t.ndim), 0)
        return range(self.first, self.first + length)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole, in memory."""

    step: int
    dense: dict[str, Tensor]
    tables: dict[str, dict[str, Tensor]]
    """The entries wanted of the tables wanted, as ``Block.tensors``."""
    state: dict[str, Any]
    """What the training loop keeps besides tensors."""


def folder_name(step: int) -> str:
    """The name of a checkpoint's folder."""
    return f"step-{step:09d}"


def table_file_name(table: str, first: int) -> str:
    """The name of a file with entries of a table, from ``first`` on."""
    return f"{table}-{first:012d}.safetensors"


def steps(folder: Path) -> list[int]:
    """The steps of all checkpoints in a folder, whole or damaged, ascending.

    Raises ``PermissionError`` where the folder may not be read.
    """
    copy = objects.copy_of(folder)
    if copy is not None:
        names = objects.committed(copy, folder)
    else:
        # Path.glob would give nothing for a folder that may not be read.
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    numbers = (name.removeprefix("step-") for name in names if name.startswith("step-"))
    return sorted(int(number) for number in numbers if number.isdigit())


def load(
    folder: Path,
    step: int,
    communicator: Communicator | None = None,
    *,
    wanted: Wanted | None = None,
) -> Checkpoint | None:
    """The checkpoint of a step, or None if it is missing, partial or damaged.

    All workers of a ``communicator`` call it together: each checks the hashes of some of the
    files and reads the entries that it wants, or all. Either all get the checkpoint or none does.
    Raises ``InputError`` if a version with another format wrote it.
    """
    communicator = communicator or Communicator()
    path = folder / folder_name(step)
    checkpoint, version = None, FORMAT_VERSION
    try:
        copy = objects.copy_of(folder)
        if copy is not None:  # what is fetched is checked
            hashes, files_to_check = objects.fetch(copy, path, wanted), []
        else:
            hashes = json.loads((path / MANIFEST).read_text())
            files_to_check = sorted(hashes)[communicator.rank :: communicator.size]
        if all(sha256(path / name) == hashes[name] for name in files_to_check):
            if not {DENSE, STATE} <= set(hashes):
                raise ValueError("the manifest does not list every file")
            state = json.loads((path / STATE).read_text())
            version = state.get("format_version", 1)
            if version == FORMAT_VERSION:
                checkpoint = _read(path, state, hashes, wanted)
    except (OSError, ValueError, AttributeError, KeyError, TypeError, SafetensorError):
        pass  # damaged in one way or another
    is_whole = communicator.all_true(checkpoint is not None)
    require(
        version == FORMAT_VERSION,
        f"{path} is a checkpoint of format {version}, and this version reads format "
        f"{FORMAT_VERSION}; start a new run=DIR, or go on with the version that wrote it",
    )
    return checkpoint if is_whole else None


def load_latest(
    folder: Path, communicator: Communicator | None = None, *, wanted: Wanted | None = None
) -> tuple[Checkpoint | None, list[int]]:
    """The newest whole checkpoint, and the steps of newer, damaged ones; otherwise as ``load``.

    A training may write the folder meanwhile: a checkpoint that it deletes is not damaged.
    """
    communicator = communicator or Communicator()
    if objects.copy_of(folder) is not None:
        objects.forget_all_but(folder, map(folder_name, steps(folder)))
    tried: set[int] = set()
    skipped: list[int] = []
    # Listed anew each time, because a training deletes checkpoints only where newer ones are.
    while left := communicator.broadcast_object(sorted(set(steps(folder)) - tried)):
        step = left[-1]
        checkpoint = load(folder, step, communicator, wanted=wanted)
        if checkpoint is not None:
            return checkpoint, skipped
        tried.add(step)
        if communicator.broadcast_object(_is_there(folder, step)):
            skipped.append(step)
    return None, skipped


def _is_there(folder: Path, step: int) -> bool:
    """Whether there is still a checkpoint of a step, whole or damaged."""
    if objects.copy_of(folder) is None:
        return (folder / folder_name(step)).exists()
    return step in steps(folder)


def newest_state(folder: Path) -> dict[str, Any] | None:
    """The training loop's state in the newest checkpoint where it can be read.

    Hashes are not checked. None if there is no such checkpoint.
    """
    for step in reversed(steps(folder)):
        with suppress(OSError, ValueError):
            copy = objects.copy_of(folder)
            if copy is not None:
                objects.fetch(copy, folder / folder_name(step), {})
            state = json.loads((folder / folder_name(step) / STATE).read_text())
            if isinstance(state, dict) and "store" in state:
                return state
    return None


def read_parts(
    folder: Path, step: int, table: str, *, entries_per_part: int
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """A table of a checkpoint that ``load`` found whole, in parts: the number of the first entry,
    and entries as ``Block.tensors``. So a table need not fit into memory."""
    path, prefix = folder / folder_name(step), f"{table}/"
    copy = objects.copy_of(folder)
    names = [p.name for p in path.iterdir()] if copy is None else objects.fetch(copy, path, None)
    dense = parse((path / DENSE).read_bytes())
    scalars = {k.removeprefix(prefix): v for k, v in dense.items() if k.startswith(prefix)}
    files = (path / name for name in names if name.startswith(f"{table}-"))
    for file in sorted(files):
        first = int(file.name.removeprefix(f"{table}-").removesuffix(".safetensors"))
        for start in itertools.count(0, entries_per_part):
            entries = dict(_read_slices(file, start, start + entries_per_part))
            if not len(next(iter(entries.values()))):
                break
            yield first + start, entries | scalars


def _read(
    path: Path, state: dict[str, Any], files: Collection[str], wanted: Wanted | None
) -> Checkpoint:
    """Read a checkpoint whose hashes are right; raises one of several errors if it lacks data."""
    dense = parse((path / DENSE).read_bytes())
    sizes: dict[str, int] = state["sizes"]
    # Scalars of tables stand among the dense tensors, as ``<table>/<name>``.
    scalars = {k: dense.pop(k) for k in list(dense) if k.split("/")[0] in sizes}
    tables = {}
    for table, entries in (dict.fromkeys(sizes) if wanted is None else wanted).items():
        prefix, present = f"{table}/", range(sizes[table])
        if entries is not None:
            present = present[entries.start : entries.stop]
        tables[table] = _read_entries(path, table, files, present) | {
            name.removeprefix(prefix): v for name, v in scalars.items() if name.startswith(prefix)
        }
    return Checkpoint(state["step"], dense, tables, state)


def _read_entries(
    path: Path, table: str, files: Collection[str], entries: range
) -> dict[str, Tensor]:
    """Entries of a table, from whichever files hold them.

    Files' parts are copied into place one by one: no more memory is needed than for the entries
    and one such part. Raises ``ValueError`` if entries are missing.
    """
    tensors: dict[str, Tensor] = {}
    num_filled: dict[str, int] = {}
    for name in sorted(name for name in files if name.startswith(f"{table}-")):
        first = int(name.removeprefix(f"{table}-").removesuffix(".safetensors"))
        for key, part in _read_slices(path / name, entries.start - first, entries.stop - first):
            if key not in tensors:
                is_all = len(part) == len(entries)  # in this one file: no copy is needed
                shape = (len(entries), *part.shape[1:])
                tensors[key], num_filled[key] = part if is_all else part.new_empty(shape), 0
            start, num_filled[key] = num_filled[key], num_filled[key] + len(part)
            if tensors[key] is not part:
                tensors[key][start : num_filled[key]] = part
    is_none = len(entries) > 0 and not tensors
    if is_none or any(number != len(entries) for number in num_filled.values()):
        raise ValueError(f"entries of {table} are missing")
    return tensors


def _read_slices(path: Path, start: int, stop: int) -> Iterator[tuple[str, Tensor]]:
    """Of each tensor of a file, the entries from ``start`` to ``stop`` that it has, by name."""
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118 (it is no mapping)
            tensor = file.get_slice(key)
            length = tensor.get_shape()[0]
            first, last = (min(max(end, 0), length) for end in (start, stop))
            yield key, tensor[first:last]
