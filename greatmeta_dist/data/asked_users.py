"""The users that recommendations are asked for: a log of what is known of them, or a list of them.

A log is read as the run's own log was, where nothing else is said: the same columns, repeats and
checks. A row that has a user and nothing else asks for a user of whom nothing is known. So does a
file without a column of items, which is a list of users.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.config.data import AUTO, MAPPED_SOURCES
from greatmeta_dist.data.manifest import Field, Manifest
from greatmeta_dist.data.sources import Source, open_source
from greatmeta_dist.data.sources.base import interactions_of
from greatmeta_dist.data.sources.columns import entity_column, usual_columns
from greatmeta_dist.data.sources.folders import (
    ENDINGS,
    bare_name,
    format_of,
    local_file,
    visible_files,
)
from greatmeta_dist.data.sources.mapped import Files, Reader
from greatmeta_dist.data.text_files import first_line
from greatmeta_dist.errors import InputError, require

OF_TASKS = ("label", "click_at", "seed", "max_support")
"""Options that are the run's own: its model was trained on tasks that they made."""
LIST_COLUMNS = {"item": None, "rating": None, "timestamp": None}
"""What a list of users does not have."""
OF_ROWS = ("events", "repeats", "rating_range")
"""Options that say what a row counts. They are the run's own, unless they are typed."""
OF_ORDER = ("query_by", "support_by", "split_at", "split_last")
"""Options that decide which rows of a long history are read."""
OF_FILES = (
    "separator", "encoding", "has_header", "list_separator", "missing_values", "unrated_value",
    "max_rejected_fraction", "max_rejected_feature_fraction",
)  # fmt: skip
"""Options that say how files are read. They are the run's own where the files are of the same form,
unless they are typed."""
MERGING = ("sum", "count")
"""Rules of repeats whose results are no ratings of the log."""


@dataclass(frozen=True)
class AskedUsers:
    """The opened log or list, and how its rows count."""

    source: Source
    config: DataConfig
    is_list: bool
    """Whether it is a list of users, of whom nothing is known."""
    option: str
    """What names the log on the command line."""


def open_asked(
    users: str,
    config: DataConfig,
    manifest: Manifest,
    work: Path,
    *,
    typed: Collection[str],
    option: str = "users",
) -> AskedUsers:
    """Open the file or folder ``users``, which ``option`` names.

    ``config`` has the options that were typed, ``typed`` their names (``data`` of a preset), and
    ``manifest`` the options of the log that the run was trained on. Raises ``InputError`` where the
    files cannot be read, or do not say what the run needs to know.
    """
    require("://" in users or Path(users).exists(), f"{option}={users} does not exist; name a file")
    try:
        config = _with_run_options(users, config, manifest, typed)
        config, is_list = _with_columns(config, manifest, work)
        _require_known_features(config, manifest)
        source = _open_list(config, work) if is_list else open_source(config, work)
    except InputError as error:
        raise InputError(str(error).replace("data.path", option)) from error
    if source.columns is not None:
        config = replace(config, columns=source.columns)
    if config.support_by == "latest" and not source.has_timestamp:
        config = replace(config, support_by="random")
    return AskedUsers(source, config, is_list, option)


def _with_run_options(
    users: str, config: DataConfig, manifest: Manifest, typed: Collection[str]
) -> DataConfig:
    """The options to read ``users`` with; columns are still as they were typed."""
    recipe = manifest.recipe
    run = replace(
        DataConfig(),
        columns=ColumnsConfig(**recipe["columns"]),
        **{name: recipe[name] for name in (*OF_TASKS, *OF_ROWS, *OF_ORDER)},
    )
    require(
        config.columns.rating is not None or run.columns.rating is None or run.is_click,
        "data.columns.rating is null, and this run predicts ratings; name the column",
    )
    names = [*OF_TASKS, *(name for name in OF_ROWS if name not in typed)]
    source = config.source if {"data", "source"} & {*typed} else source_of(users, recipe["source"])
    if source == recipe["source"] and "data" not in typed:
        names += [name for name in OF_FILES if name not in typed]
    options: dict[str, Any] = {name: recipe[name] for name in names}
    if "repeats" not in typed:
        # What suits a log depends on its columns, and here it is the run's log that counts.
        options["repeats"] = run.repeats_rule
    if source not in MAPPED_SOURCES:
        options["events"] = {}
    config = replace(config, **options, source=source, path=users, support_by=run.support_rule)
    if config.rating_range is None and _has_plain_ratings(config):
        config.rating_range = [manifest.ratings.lowest, manifest.ratings.highest]
    return config


def _has_plain_ratings(config: DataConfig) -> bool:
    """Whether what is predicted are ratings as they stand in the log."""
    return not (config.is_click or config.events or config.repeats_rule in MERGING)


def source_of(users: str, of_run: str) -> str:
    """The form of the files at a path, told by their names, or else that of the run's own log."""
    root = Path(users)
    default = of_run if of_run != "synthetic" else "csv"
    if "://" in users or not root.is_dir():
        return format_of(users, default)
    names = [bare_name(path.as_posix()) for path in visible_files(root)]
    kinds = [k for k, ends in ENDINGS.items() if any(name.endswith(ends) for name in names)]
    is_any_folder = default in MAPPED_SOURCES or kinds == ["parquet"]
    return kinds[0] if len(kinds) == 1 and is_any_folder else default


def _with_columns(config: DataConfig, manifest: Manifest, work: Path) -> tuple[DataConfig, bool]:
    """The columns of files of any columns, and whether these are a list of users.

    A column that was not named is called as in the run's log, or by a usual name.
    """
    if config.source not in MAPPED_SOURCES:
        return config, False
    assert config.path is not None
    if _is_bare_list(config):
        return _of_list(replace(config, has_header=False), "1"), True
    reader, log = Reader(config, work), Files.at(config.path, config.source)
    available = reader.columns(log)
    typed = asdict(config.columns)
    columns = columns_as_in(manifest.recipe["columns"], typed, available)
    if typed["event"] == AUTO and not config.events:
        columns["event"] = AUTO
    config = _with_features(config, manifest, work)
    usual = usual_columns("user", available)
    user = usual[0] if columns["user"] == AUTO and len(usual) == 1 else columns["user"]
    is_list = columns["item"] == AUTO and not usual_columns("item", available)
    if is_list and user in available and columns["rating"] in (None, AUTO):
        return _of_list(config, user), True
    return replace(config, columns=ColumnsConfig(**columns)), False


def columns_as_in(
    in_run: Mapping[str, Any], typed: Mapping[str, Any], available: Collection[str]
) -> dict[str, Any]:
    """By role the column of a file: as it was typed, or called as in the run's log.

    It stays ``auto``, to be found by its usual names, where the file has no column of that name.
    """
    return {
        role: in_run[role] if name == AUTO and in_run[role] in (None, *available) else name
        for role, name in typed.items()
    }


def _of_list(config: DataConfig, user: str) -> DataConfig:
    """The options to read a list of users with, who stand in that column."""
    columns = ColumnsConfig(**{"user": user, **LIST_COLUMNS})  # type: ignore[arg-type]
    # A log of ratings needs a column of them, and a list is none.
    return replace(config, columns=columns, label="click", click_at=None, events={})


def _is_bare_list(config: DataConfig) -> bool:
    """Whether a file is a text with a user on each line, and no header."""
    assert config.path is not None
    is_text = bare_name(config.path).endswith(".txt") and config.source == "csv"
    if not is_text or not config.has_header or config.columns.user != AUTO:
        return False
    names = first_line(config.path).split(config.separator)
    return names != [""] and len(names) == 1 and not usual_columns("user", names)


def _with_features(config: DataConfig, manifest: Manifest, work: Path) -> DataConfig:
    """Without ``data.user_features``, those of the run that ``data.users_path`` has."""
    if config.users_path is None or config.user_features:
        return config
    fields = user_fields(manifest)
    require(
        bool(fields),
        f"data.users_path={config.users_path} is set, and this run has no user feature",
    )
    kind = format_of(config.users_path, config.source)
    available = Reader(config, work).columns(Files.at(config.users_path, kind))
    kinds = {field.name: _kind(field) for field in fields if field.name in available}
    require(
        bool(kinds),
        f"{Path(config.users_path).name} has none of this run's user features "
        f"({', '.join(f.name for f in fields)}); it has {', '.join(available)}",
    )
    return replace(config, user_features=kinds)


def _kind(field: Field) -> str:
    if field.edges is not None:
        return "float"
    return "token_list" if field.is_list else "token"


def user_fields(manifest: Manifest) -> list[Field]:
    """The features of users that a run knows."""
    return [field for field in manifest.fields if field.side == "user"]


def _require_known_features(config: DataConfig, manifest: Manifest) -> None:
    """Raise ``InputError`` where a feature was named that the run does not have, or not so."""
    known = {field.name: _kind(field) for field in user_fields(manifest)}
    for name, kind in config.user_features.items():
        require(
            name in known,
            f"data.user_features names {name}, and this run has the user features "
            f"{', '.join(known) or '(none)'}",
        )
        require(
            kind == known[name],
            f"data.user_features says {name}: {kind}, and in this run it is {known[name]}",
        )


def _open_list(config: DataConfig, work: Path) -> Source:
    """A list of users, as a log of rows that have no item."""
    assert config.path is not None
    reader, log = Reader(config, work), Files.at(config.path, config.source)
    column = config.columns.user
    frames = reader.parts(log, {column: "id"})
    parts = tuple(interactions_of(frame, {"user": column}) for frame in frames)
    files = [local_file(file, work) for file in log.files]
    table = None
    if config.users_path is not None:
        entities = Files.at(config.users_path, format_of(config.users_path, config.source))
        names = reader.columns(entities)
        id_column = entity_column(column, "user", names, entities.files[0].name)
        table = reader.table(entities, id_column, dict(config.user_features))  # type: ignore[arg-type]
        files += [local_file(file, work) for file in entities.files]
    return Source(
        pl.concat(parts),
        has_timestamp=False,
        users=table,
        items=None,
        files=tuple(files),
        columns=config.columns,
        parts=parts,
    )
