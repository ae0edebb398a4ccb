"""A log that a run is to be evaluated on → a store, which is kept for the evaluation alone."""

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data.prepare import prepare
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

    With a preset (``data`` in ``typed``) all options are the preset's. Raises ``InputError`` where
    the log cannot be read so.
    """
    changes = {**NO_SPLIT, "path": log}
    if "data" not in typed:
        of_run = _saved(recipe)
        require(
            of_run.source != "synthetic" or "source" in typed,
            "the run's own data are synthetic, and tell nothing of a log; say with data=<preset> "
            "what its form is",
        )
        kept = {f.name for f in fields(DataConfig)} - {*typed, *NO_SPLIT, *OF_ENTITIES, "path"}
        changes |= {name: getattr(of_run, name) for name in kept}
    options = replace(config, **changes)
    try:
        with display.bar("prepare", 100, "%") as bar:
            prepare(options, store, lambda phase, share: bar.update(100 * share, phase))
    except InputError as error:
        raise InputError(str(error).replace("data.path", "users")) from error


def _saved(recipe: Mapping[str, Any]) -> DataConfig:
    """The options that a store was made with."""
    return DataConfig(**{**recipe, "columns": ColumnsConfig(**recipe["columns"])})
