"""Interaction logs → a store (DESIGN.md section 5): who may write the folder, and how it ends.

The work itself is in ``preparation``.
"""

import shutil
from pathlib import Path

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.manifest import MANIFEST, read_manifest
from greatmeta_dist.data.preparation import FOLDERS, Preparation, Progress
from greatmeta_dist.data.rejects import REJECTS
from greatmeta_dist.data.report import Report
from greatmeta_dist.data.store import ITEMS
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.files import locked

LOCK = ".lock"
WORK = ".preparing"
"""What a preparation works in; one that was killed leaves it."""


def prepare(
    config: DataConfig, store: str | Path, progress: Progress = lambda stage, share: None
) -> Report:
    """Prepare a log into ``store``; a store already made the same way is left as it is.

    Raises ``InputError`` for unreadable or malformed input, for too many rejected rows (which are
    then in ``rejects.parquet``), for a store made otherwise, and for a folder of other things.
    """
    store = Path(store)
    is_new = not store.exists()
    require(
        is_new or _is_own(store),
        f"store={store} exists and is no store; choose an empty or new folder",
    )
    work = store / WORK
    try:
        store.mkdir(parents=True, exist_ok=True)
        with locked(store / LOCK, f"another prepare is writing {store}"):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            try:
                return Preparation(config, store, work, progress).run()
            finally:
                if not (store / MANIFEST).exists():
                    _delete_unfinished(store)
                shutil.rmtree(work, ignore_errors=True)
                if is_new and [p.name for p in store.iterdir()] == [LOCK]:
                    shutil.rmtree(store)
    except pl.exceptions.PolarsError as error:
        first_line = str(error).splitlines()[0].partition(", hint:")[0]
        raise InputError(f"cannot read the log: {first_line}") from error


def _is_own(folder: Path) -> bool:
    """Whether a folder is a store, what is left of its preparation, or empty.

    Raises ``InputError`` where the manifest in it is not a store's.
    """
    if not folder.is_dir():
        return False
    if (folder / MANIFEST).exists():
        read_manifest(folder)
        return True
    names = {p.name for p in folder.iterdir()}
    return WORK in names or names <= {LOCK, REJECTS}


def _delete_unfinished(store: Path) -> None:
    """Delete what a preparation wrote that did not reach its end; rejects are kept."""
    for folder in FOLDERS:
        shutil.rmtree(store / folder, ignore_errors=True)
    for name in (ITEMS, "report.json", f"{MANIFEST}.partial"):
        (store / name).unlink(missing_ok=True)
