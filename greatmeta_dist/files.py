"""Files and folders that are whole whenever they can be seen, and locks between processes.

A process may be killed, or a machine lose power, between any two lines of a program. What is
written here is written beside its final name first, flushed to disk, and then renamed, which file
systems do at once or not at all.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from greatmeta_dist.errors import InputError

LOCK_POLL_S = 0.2


@contextmanager
def locked(
    path: Path,
    taken: str,
    *,
    patience_s: float = 0.0,
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Hold a lock file while in the block.

    The system frees the lock if the process dies; the file itself stays, unless the block deletes
    it. Where another process holds it, ``on_wait`` is called once. Raises ``InputError`` with the
    message ``taken`` if it still holds it after ``patience_s``.
    """
    deadline = time.monotonic() + patience_s
    is_waiting = False
    while True:
        with path.open("a") as file:
            if _is_locked_now(file.fileno(), path):
                yield
                return
        if time.monotonic() >= deadline:
            raise InputError(f"{taken}; wait for it, or stop it")
        if not is_waiting:
            on_wait()
            is_waiting = True
        time.sleep(LOCK_POLL_S)


def _is_locked_now(descriptor: int, path: Path) -> bool:
    """Try to lock an open file; a lock on a file that its holder deleted keeps nobody out."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; the file is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Return once a file's bytes, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all.

    Whoever reads ``path`` meanwhile, or after a crash, sees the earlier text or the new one, never
    a part; an error leaves the earlier one. (Only ``sync(path.parent)`` makes sure that it is the
    new one after a power failure.) The text is first written to ``<name>.partial`` in the same
    folder, so only one process at a time may write a path.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text)
        sync(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Write a file that appears whole or not at all: the block writes the path that it is given.

    Several processes may write one path at a time. What a killed one leaves beside it ends in
    ``.partial``. It is not flushed to disk.
    """
    partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json_atomically(path: Path, value: Any) -> None:
    """Write a value as indented JSON, as ``write_text_atomically`` does.

    Raises ``ValueError`` for nan and infinity, which JSON does not have.
    """
    write_text_atomically(path, json.dumps(value, indent=1, allow_nan=False))


@contextmanager
def published_folder(target: Path, *, partial: Path | None = None) -> Iterator[Path]:
    """Make a folder that appears whole or not at all.

    The block fills the folder it is given, which stands beside ``target``. When the block ends,
    every file is flushed to disk and the folder renamed to ``target``; it is on disk when this
    returns. An error in the block, or in the flushing, deletes the unfinished folder and leaves
    ``target`` as it was. A folder that already is at ``target`` is replaced: it is gone for the
    moment between its removal and the renaming.

    ``partial`` names the unfinished folder where several processes write into it: it may exist,
    and its files stay. Without it the name is ``.partial-<name>``, and what a killed process left
    there is deleted first, so only one process at a time may write a target (see ``locked``).
    """
    if partial is None:
        partial = target.with_name(f".partial-{target.name}")
        shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        yield partial
        _sync_tree(partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync(target.parent)


def publish(staged: Path, target: Path) -> None:
    """Move the files of a folder to where they belong, each at once.

    May be repeated: a file that is not there was moved before.
    """
    for path in sorted(staged.rglob("*")):
        place = target / path.relative_to(staged)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        else:
            path.replace(place)


def publish_whole(made: Path, target: Path) -> None:
    """Move a file or folder to where it belongs, at once, and flushed to disk.

    At ``target`` there is nothing, or an empty folder.
    """
    if made.is_dir():
        _sync_tree(made)
        if target.is_dir():
            target.rmdir()
    else:
        sync(made)
    made.rename(target)
    sync(target.parent)


def _sync_tree(folder: Path) -> None:
    """Flush all files of a folder and its subfolders, and their names."""
    for directory, _, names in os.walk(folder):
        for name in names:
            sync(Path(directory) / name)
        sync(Path(directory))
