"""A run on an object store: trained in, and read from, a copy on each machine.

Checkpoints go straight to the object store, and come from there (``engine/checkpoint_objects.py``).
All else is small. Whoever trains holds a claim on the folder, and writes its copy back: the model
and the config before training begins, the records with each checkpoint and at the end.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from greatmeta_dist.display import Display
from greatmeta_dist.errors import require
from greatmeta_dist.storage.claim import claimed
from greatmeta_dist.storage.local_copy import LocalCopy, is_visible, local_folder
from greatmeta_dist.storage.objects import patiently

TRAINING = "train"
"""The use of the copy that a training writes; a reader has another one."""
CONFIG, MODEL, RECORDS = "config.yaml", "model", "tensorboard"
KEPT = (CONFIG, MODEL, RECORDS, "history.jsonl", "workers.json", "metrics.json")
HOLDER = ".holder"
"""Beside a copy, and in its origin, a number by which the copy of who holds the run is known."""
RESULTS = ("evaluation.json", "comparison.json")
"""How files end that evaluations leave."""


def folder_to_train(run: str | Path) -> Path:
    """Where to train a run; ``open_run`` brings it up to date."""
    folder = local_folder(run, use=TRAINING)
    if LocalCopy.of(folder) is not None:
        folder.mkdir(exist_ok=True)
    return folder


def folder_to_read(run: str | Path) -> Path:
    """Where to read a run's config and model, as they are now."""
    folder = local_folder(run)
    copy = LocalCopy.of(folder)
    if copy is not None:
        copy.origin.require_reachable()
        copy.pull(_is_read)
    return folder


@contextmanager
def held_copy(run: Path, display: Display) -> Iterator[None]:
    """Hold a run on an object store while in the block, which begins with what is there.

    What the block leaves in the copy is written back, however it ends. Nothing is done for a run on
    disk. Raises ``InputError`` where another training holds it.
    """
    copy = LocalCopy.of(run)
    if copy is None:
        yield
        return

    def say_waiting() -> None:
        display.say(f"{run} is claimed by another training; waiting for a sign that it lives")

    with claimed(copy.origin, f"another training writes {run}", on_wait=say_waiting):
        _pull_run(copy)
        token = uuid4().hex
        copy.origin.write(HOLDER, token.encode())
        (run.parent / HOLDER).write_text(token)
        try:
            yield
        finally:
            # The first worker may be on another machine, and have written more records there.
            copy.pull(_is_kept, keeps_changes=True)
            copy.push(_is_kept, only_changed=True)
            copy.origin.delete(HOLDER)


def _pull_run(copy: LocalCopy) -> None:
    """Have a run as it is now, or an empty folder; raises ``InputError`` for other things."""
    others = [name for name in copy.origin.files() if is_visible(name)]
    if CONFIG not in others:
        require(
            all(name.startswith(f"{MODEL}/") for name in others),
            f"run={copy.origin.url} exists and is no run; choose an empty or new folder",
        )
        shutil.rmtree(copy.folder)
        copy.folder.mkdir()
    copy.pull(_is_kept)


def write_back_start(run: Path) -> None:
    """Write the config and the model of a run that is to be trained to its object store."""
    copy = LocalCopy.of(run)
    if copy is not None:
        copy.push(_is_kept, last=CONFIG, is_whole=True)


def fetch_start(run: Path, *, is_first: bool) -> None:
    """Have what a worker needs of the run, where another machine holds it.

    The first worker has its records too, to write on.
    """
    copy = LocalCopy.of(run)
    if copy is not None and not _is_holder_s(copy):
        copy.pull(_is_kept if is_first else _is_start)


def _is_holder_s(copy: LocalCopy) -> bool:
    """Whether a copy is that of the process which holds the run."""
    try:
        token = (copy.folder.parent / HOLDER).read_bytes()
        return token == copy.origin.read(HOLDER)
    except FileNotFoundError:
        return False


def write_back_records(run: Path) -> None:
    """Write what the first worker writes, besides checkpoints, to its object store."""
    copy = LocalCopy.of(run)
    if copy is not None:
        patiently(lambda: copy.push(_is_kept, only_changed=True))


def write_back(run: Path, name: str) -> None:
    """Write one file of a run to its object store."""
    copy = LocalCopy.of(run)
    if copy is not None:
        copy.push(lambda other: other == name)


def _is_kept(name: str) -> bool:
    return name.split("/")[0] in KEPT or name.endswith(RESULTS)


def _is_start(name: str) -> bool:
    return name.split("/")[0] in (CONFIG, MODEL)


def _is_read(name: str) -> bool:
    return _is_kept(name) and not name.startswith(f"{RECORDS}/")
