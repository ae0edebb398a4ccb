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
from greatmeta_dist.data.manifest import MANIFEST, WORK, read_manifest
from greatmeta_dist.data.phases import Phases, Progress, polars_message
from greatmeta_dist.data.preparation import FOLDERS, Preparation
from greatmeta_dist.data.rejects import REJECTS
from greatmeta_dist.data.report import Report
from greatmeta_dist.data.store import ITEMS
from greatmeta_dist.data.units import RunUnits
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.files import locked

LOCK = ".lock"


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
    store = Path(store)
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
