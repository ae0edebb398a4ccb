"""A log that a run is to be evaluated on → a store, which is kept for the evaluation alone."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.config.data import MAPPED_SOURCES
from greatmeta_dist.data.asked_users import OF_FILES, columns_as_in, source_of
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.sources.mapped import Files, Reader
from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError, require

NO_SPLIT: dict[str, Any] = {
    "split": None,
    "split_at": None,
    "split_last": None,
    "warm_fraction": 0.0,
    "cold_item_fraction": 0.0,
    "from_store": None,
    "keep_log": False,
}
"""Options of a log whose users are all new: in which split they are does not matter."""
OF_ENTITIES = ("users_path", "items_path", "user_features", "item_features")
"""Options of files beside the run's log, which another log has not."""


def prepare_log(
    log: str,
    store: Path,
    config: DataConfig,
    typed: Collection[str],
    recipe: Mapping[str, Any],
    display: Display,
) -> None:
    """Prepare a log as the run's own was (``recipe``), but for the options that were ``typed``.

    Files of another form have columns under the same names as in the run's log, or under usual
    ones. With a preset (``data`` in ``typed``) all options are the preset's. Raises ``InputError``
    where the log cannot be read so.
    """
    try:
        if "data" in typed:
            options = replace(config, **NO_SPLIT, path=log)
        else:
            options = _read_as_own(log, _saved(recipe), config, typed, store.parent)
        with display.bar("prepare", 100, "%") as bar:
            prepare(options, store, lambda phase, share: bar.update(100 * share, phase))
    except InputError as error:
        raise InputError(str(error).replace("data.path", "users")) from error


def _read_as_own(
    log: str, of_run: DataConfig, config: DataConfig, typed: Collection[str], work: Path
) -> DataConfig:
    """The options to read a log with: the run's own, but for those of files of another form."""
    require(
        of_run.source != "synthetic" or "source" in typed,
        "the run's own data are synthetic, and tell nothing of a log; say with data=<preset> "
        "what its form is",
    )
    source = config.source if "source" in typed else source_of(log, of_run.source)
    others = {*typed, *NO_SPLIT, *OF_ENTITIES, "path", "source", "columns"}
    if source != of_run.source:
        others.update(OF_FILES)
    if source not in MAPPED_SOURCES:
        others.add("events")
    kept = {f.name: getattr(of_run, f.name) for f in fields(DataConfig) if f.name not in others}
    options = replace(config, **kept, **NO_SPLIT, path=log, source=source)
    if source not in MAPPED_SOURCES:
        return options
    available = Reader(options, work).columns(Files.at(log, source))
    columns = columns_as_in(asdict(of_run.columns), asdict(options.columns), available)
    return replace(options, columns=ColumnsConfig(**columns))


def _saved(recipe: Mapping[str, Any]) -> DataConfig:
    """The options that a store was made with."""
    return DataConfig(**{**recipe, "columns": ColumnsConfig(**recipe["columns"])})
