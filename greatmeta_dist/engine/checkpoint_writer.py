"""Writes checkpoints while training goes on (``checkpoint.py`` has their format).

All workers write one checkpoint together. Each copies what it holds, and a thread of its own writes
the copy while training goes on; a worker other than rank 0 then leaves a note with its files'
hashes. Rank 0 waits for the notes, writes the manifest and gives the folder its final name, so a
checkpoint has that name only when it is whole.
"""

import json
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial as bound
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from greatmeta_dist.engine import checkpoint_objects as objects
from greatmeta_dist.engine.checkpoint import (
    DENSE,
    FORMAT_VERSION,
    MANIFEST,
    STATE,
    Block,
    folder_name,
    steps,
    table_file_name,
)
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.files import published_folder, sha256, sync, write_json_atomically
from greatmeta_dist.storage.local_copy import LocalCopy

ENTRIES_PER_FILE = 1 << 20
NOTE_PATIENCE_S = 1800.0
"""How long rank 0 waits for the other workers' files."""
POLL_S = 0.01
OBJECT_POLL_S = 0.1

Hashes = dict[str, str]
"""The SHA-256 of files, by name."""


@dataclass(frozen=True)
class _Snapshot:
    """Copies of what one worker writes of a checkpoint."""

    step: int
    dense: dict[str, Tensor]
    blocks: dict[str, Block]
    state: dict[str, Any]


class CheckpointWriter:
    """Writes checkpoints in the background, one at a time; all workers use it together."""

    def __init__(
        self,
        folder: Path,
        communicator: Communicator,
        *,
        token: str,
        keep: int,
        on_commit: Callable[[], None],
    ):
        """``open`` makes a writer; ``token`` is a part of unfinished folders' names."""
        self._folder, self._communicator, self._on_commit = folder, communicator, on_commit
        self._token, self._keep = token, keep
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        communicator: Communicator,
        *,
        keep: int,
        on_commit: Callable[[], None] = lambda: None,
    ) -> "CheckpointWriter":
        """A writer of checkpoints into ``folder``, of which the ``keep`` newest and the best stay.

        All workers call it together. Deletes what earlier workers left unfinished. ``on_commit`` is
        called on rank 0, in the background, whenever a checkpoint is whole.
        """
        # Workers that were taken for dead may still be writing, so each start has its own name
        # for what is unfinished.
        token = communicator.broadcast_object(secrets.token_hex(4))
        copy = objects.copy_of(folder)
        if communicator.is_first and copy is not None:
            objects.begin(copy, folder, token)
        # Of a run on an object store each machine has unfinished folders of its own.
        if communicator.is_first or copy is not None:
            for unfinished in folder.glob(".partial-*"):
                if token not in unfinished.name:
                    shutil.rmtree(unfinished, ignore_errors=True)
        return cls(folder, communicator, token=token, keep=keep, on_commit=on_commit)

    def save(
        self,
        step: int,
        dense: dict[str, Tensor],
        blocks: Mapping[str, Block],
        state: dict[str, Any],
        *,
        best: int | None = None,
    ) -> None:
        """Copy what a checkpoint is to hold, and write it while training goes on.

        All workers call it together; one that comes before the last checkpoint is whole waits for
        it. ``blocks`` are this worker's, by table. ``dense`` and ``state`` are rank 0's, and are
        ignored elsewhere. ``best`` is the step of a checkpoint that is kept, however old. Raises
        ``RuntimeError`` if the last checkpoint could not be written.
        """
        self.wait()
        snapshot = _Snapshot(
            step,
            _copied(dense),
            {
                table: Block(_copied(block.tensors), block.first, block.total)
                for table, block in blocks.items()
            },
            state,
        )

        def write() -> None:
            try:
                self._write(snapshot, best)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=write, name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise the error that the background writing met, if it met one."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Return once the last checkpoint is whole; raises as ``check`` does.

        All workers call it together, and it ends for all at the same time.
        """
        # Rank 0's thread waits for the other workers' notes. A worker that waited alone for its
        # thread would be silent meanwhile, and the others, a step ahead, would take it for dead.
        # So all ask each other, again and again, and go on together.
        while not self._communicator.all_true(self._thread is None or not self._thread.is_alive()):
            time.sleep(POLL_S)
        self._thread = None
        self.check()

    def _write(self, snapshot: _Snapshot, best: int | None) -> None:
        """Write this worker's part; on rank 0 also complete the checkpoint and delete old ones."""
        target = self._folder / folder_name(snapshot.step)
        partial = self._folder / f".partial-{self._token}-{target.name}"
        rank, copy = self._communicator.rank, objects.copy_of(self._folder)
        try:
            if copy is not None:
                partial = partial.with_name(f"{partial.name}-{rank}")  # other workers have theirs
                self._upload(copy, partial, f"{self._folder.name}/{target.name}", snapshot)
            elif self._communicator.is_first:
                with published_folder(target, partial=partial):
                    self._complete(partial, snapshot)
            else:
                partial.mkdir(parents=True, exist_ok=True)
                hashes = _write_blocks(partial, snapshot.blocks)
                write_json_atomically(partial / _note_name(rank), hashes)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise RuntimeError(
                f"cannot write the checkpoint {target}: {getattr(error, 'strerror', '') or error}; "
                f"{'free the disk' if copy is None else 'mend that'} and run the same command again"
            ) from error
        if self._communicator.is_first:
            prune(self._folder, up_to=snapshot.step, keep=self._keep, best=best)
            self._on_commit()

    def _upload(self, copy: LocalCopy, partial: Path, name: str, snapshot: _Snapshot) -> None:
        """Write this worker's part to an object store; on rank 0 also commit the checkpoint."""
        partial.mkdir(parents=True, exist_ok=True)
        hashes = _write_blocks(partial, snapshot.blocks)
        if self._communicator.is_first:
            hashes |= _write_dense(partial, snapshot)
        objects.upload(copy, partial, name, self._token)
        shutil.rmtree(partial)
        if not self._communicator.is_first:
            note = _note_name(self._communicator.rank)
            objects.note(copy, name, self._token, note, hashes)
            return
        for rank in range(1, self._communicator.size):
            take = bound(objects.take_note, copy, name, self._token, _note_name(rank))
            hashes |= _await_note(take, poll_s=OBJECT_POLL_S)
        objects.commit(copy, name, self._token, hashes)

    def _complete(self, partial: Path, snapshot: _Snapshot) -> None:
        """Write rank 0's part, and the manifest once all other workers have written theirs."""
        hashes = _write_blocks(partial, snapshot.blocks)
        hashes |= _write_dense(partial, snapshot)
        for rank in range(1, self._communicator.size):
            hashes |= _await_note(bound(_take_note, partial / _note_name(rank)))
        write_json_atomically(partial / MANIFEST, hashes)


def _write_dense(partial: Path, snapshot: _Snapshot) -> Hashes:
    """Write the files that rank 0 alone writes."""
    scalars = {
        f"{table}/{name}": tensor
        for table, block in snapshot.blocks.items()
        for name, tensor in block.tensors.items()
        if tensor.ndim == 0
    }
    save_file(snapshot.dense | scalars, partial / DENSE)
    state = {
        **snapshot.state,
        "step": snapshot.step,
        "sizes": {table: block.total for table, block in snapshot.blocks.items()},
        "format_version": FORMAT_VERSION,
    }
    write_json_atomically(partial / STATE, state)
    return {name: sha256(partial / name) for name in (DENSE, STATE)}


def _write_blocks(partial: Path, blocks: Mapping[str, Block]) -> Hashes:
    """Write a worker's blocks, ``ENTRIES_PER_FILE`` entries a file."""
    hashes = {}
    for table, block in blocks.items():
        for start in range(0, len(block.entries), ENTRIES_PER_FILE):
            path = partial / table_file_name(table, block.first + start)
            entries = {
                name: tensor[start : start + ENTRIES_PER_FILE].contiguous()
                for name, tensor in block.tensors.items()
                if tensor.ndim
            }
            save_file(entries, path)
            sync(path)
            hashes[path.name] = sha256(path)
    return hashes


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in the host's memory, which training does not change."""
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}


def _note_name(rank: int) -> str:
    """The file by which a worker tells rank 0 that its blocks are on disk."""
    return f"part-{rank:05d}.json"


def _take_note(path: Path) -> Hashes | None:
    """Another worker's note, which is deleted; None before it is there."""
    if not path.exists():
        return None
    hashes: Hashes = json.loads(path.read_text())
    path.unlink()
    return hashes


def _await_note(take: Callable[[], Hashes | None], *, poll_s: float = POLL_S) -> Hashes:
    """Wait for another worker's note; raises ``OSError`` if none comes."""
    deadline = time.monotonic() + NOTE_PATIENCE_S
    while (hashes := take()) is None:
        if time.monotonic() > deadline:
            raise OSError("another worker's blocks did not come")
        time.sleep(poll_s)
    return hashes


def prune(folder: Path, *, up_to: int, keep: int, best: int | None) -> None:
    """Delete the checkpoints up to a step, but for the newest ``keep`` of them and the ``best``.

    Checkpoints of later steps stay and do not count as the newest: they were found damaged when
    training went back behind them, and must not push out those that it went back to.
    """
    copy = objects.copy_of(folder)
    for step in [s for s in steps(folder) if s <= up_to][:-keep]:
        if step != best and copy is not None:
            objects.delete(copy, f"{folder.name}/{folder_name(step)}")
        if step != best:
            shutil.rmtree(folder / folder_name(step), ignore_errors=True)
