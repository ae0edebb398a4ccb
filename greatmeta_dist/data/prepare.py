"""Interaction logs → a store (DESIGN.md section 5): who may write the folder, and how it ends.

The work itself is in ``preparation``.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.fingerprint import work_key
from greatmeta_dist.data.kept_log import LOG
from greatmeta_dist.data.manifest import MANIFEST, WORK, read_manifest
from greatmeta_dist.data.phases import Phases, Progress, polars_message
from greatmeta_dist.data.preparation import FOLDERS, Preparation
from greatmeta_dist.data.rejects import REJECTS
from greatmeta_dist.data.report import Report
from greatmeta_dist.data.store import ITEMS
from greatmeta_dist.data.units import RunUnits
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.files import locked
from greatmeta_dist.storage.local_copy import is_visible
from greatmeta_dist.storage.objects import ObjectFolder, is_url
from greatmeta_dist.storage.output import made_at

LOCK = ".lock"
KNOWN_BY = (MANIFEST, "report.json")
"""The files of a store from which it is seen that it is made."""


def prepare(
    config: DataConfig,
    store: str | Path,
    progress: Progress = lambda phase, share: None,
    *,
    run_units: RunUnits | None = None,
) -> Report:
    """Prepare a log into ``store``; a store already made the same way is left as it is.

    A preparation that was stopped, by whatever, goes on where it was. ``run_units`` says who works:
    by default threads of this process. Raises ``InputError`` for unreadable or malformed input, for
    too many rejected rows (which are then in ``rejects.parquet``), for a store made otherwise, and
    for a folder of other things.
    """
    with made_store(store) as folder:
        return prepare_here(config, folder, progress, run_units=run_units)


@contextmanager
def made_store(store: str | Path) -> Iterator[Path]:
    """The folder to prepare a store in, which may be on an object store.

    Raises ``InputError`` where it holds other things.
    """
    if is_url(store):
        _require_own_objects(ObjectFolder(str(store).rstrip("/")))
    taken = f"another prepare is writing {store}"
    with made_at(store, taken=taken, last=MANIFEST, starts_with=KNOWN_BY.__contains__) as folder:
        yield folder


def prepare_here(
    config: DataConfig,
    store: Path,
    progress: Progress = lambda phase, share: None,
    *,
    run_units: RunUnits | None = None,
) -> Report:
    """The same, into a folder on disk."""
    require(
        not store.exists() or _is_own(store),
        f"store={store} exists and is no store; choose an empty or new folder",
    )
    with _held(store):
        work = store / WORK / work_key(config, store)
        if not work.exists():
            _delete_unfinished(store)
            work.mkdir(parents=True)
        phases = Phases(work / "phases", run_units=run_units, progress=progress)
        try:
            report = Preparation(config, store, work, phases).run()
        # The same command would end in the same way. After a kill, a Ctrl-C, or the death of
        # workers it goes on, so then everything stays.
        except (InputError, OSError, pl.exceptions.PolarsError) as error:
            _delete_unfinished(store)
            if isinstance(error, pl.exceptions.PolarsError):
                raise InputError(polars_message(error)) from error
            raise
        shutil.rmtree(store / WORK)
        phases.end("done")
        return report


@contextmanager
def _held(store: Path) -> Iterator[None]:
    """Keep other preparations out of the folder, which is made, and deleted if nothing is in it."""
    is_new = not store.exists()
    store.mkdir(parents=True, exist_ok=True)
    with locked(store / LOCK, f"another prepare is writing {store}"):
        try:
            yield
        finally:
            (store / LOCK).unlink(missing_ok=True)
            if is_new and not any(store.iterdir()):
                store.rmdir()


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


def _require_own_objects(folder: ObjectFolder) -> None:
    """Raise ``InputError`` where an object store's folder has more than an unfinished store."""
    folder.require_reachable()
    names = folder.files()
    others = {name.split("/")[0] for name in names if is_visible(name)}
    require(
        MANIFEST in names or others <= {*FOLDERS, LOG, ITEMS, REJECTS, "report.json"},
        f"store={folder.url} exists and is no store; choose an empty or new folder",
    )


def _delete_unfinished(store: Path) -> None:
    """Delete what a preparation wrote that did not reach its end; rejects are kept, if any."""
    shutil.rmtree(store / WORK, ignore_errors=True)
    if (store / MANIFEST).exists():
        return
    for folder in FOLDERS:
        shutil.rmtree(store / folder, ignore_errors=True)
    for name in (ITEMS, "report.json", f"{MANIFEST}.partial"):
        (store / name).unlink(missing_ok=True)
    rejects = store / REJECTS
    if rejects.exists() and not pq.read_metadata(rejects).num_rows:
        rejects.unlink()
