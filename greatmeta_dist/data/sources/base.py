"""What a source of interactions is, and what several sources share.

A source is a function ``(DataConfig, work folder) -> Source``. It opens a log in one form, says
which columns are which, and checks no value: values stay as they are until ``data/scan.py`` checks
them. A new source is one module with such a function, and one line in ``extensions.SOURCES`` or in
the entry points of a package (group ``greatmeta_dist.sources``).

Frames of a source are lazy, and each has four columns beside its values:

    file    String   name of the file that the row is from
    line    Int64    its line there, from 1 (of Parquet: its row)
    reason  String   why the row is malformed; null where it is well formed
    text    String   the line as it is where it is malformed; null elsewhere

``scan_text`` of ``data/text.py`` returns such frames.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.config.data import MISSING_VALUES
from greatmeta_dist.data.sources.lists import is_broken_list
from greatmeta_dist.data.text import INTERNAL, is_missing
from greatmeta_dist.data.values import id_value
from greatmeta_dist.errors import require

Kind = Literal["token", "token_list", "float"]
"""Of a feature: one value, a list of values, or a number."""

Role = Literal["id", "value", "feature"]
"""What a column is read for: ids, a rating or a time, or a feature (text, or lists of text)."""

OpenSource = Callable[[DataConfig, Path], "Source"]

ENTITY_OPTIONS = ("users_path", "items_path", "user_features", "item_features")
TEXT_OPTIONS = ("separator", "encoding", "has_header", "list_separator")
MAPPED_OPTIONS = ("path", "columns", "events", *ENTITY_OPTIONS, *TEXT_OPTIONS)
"""What sources of files of any columns read. Files of users and items may be text, whatever the log
is."""
CHECKED_OPTIONS = (*MAPPED_OPTIONS, "users", "items", "mean_interactions")
"""Options of ``data`` that some sources read and others do not."""
BOOKKEEPING = ("file", "line", "reason", "text")
"""Columns that every frame of a source has."""

RESERVED_COLUMNS = (*INTERNAL, "id", "item", "user", "item_id")
"""Column names of the preparation itself, which no feature may have."""


@dataclass(frozen=True)
class Table:
    """Users or items: their ``id``, and their features."""

    frame: pl.LazyFrame
    """``id`` and features (String; of kind ``token_list``: List of String); see the module."""
    features: dict[str, Kind]


@dataclass(frozen=True)
class Source:
    """An opened log, its values unchecked."""

    interactions: pl.LazyFrame
    """``user``, ``item``, ``rating``, ``timestamp``, of any plain types (null where the log has
    none); ``event`` where ``data.events`` is read."""
    has_timestamp: bool
    users: Table | None
    """None where users have no features."""
    items: Table | None
    """None where items have no features; the log's own items are the catalogue then."""
    files: tuple[Path, ...]
    """The files read, on this disk. Their contents tell whether a store is up to date."""
    generated: tuple[Path, ...] = ()
    """Files that were generated from the options, which therefore say all about them."""
    group: str | None = None
    """A column of ``users`` that holds the true preference group; never a feature."""
    notes: dict[str, float] = field(default_factory=dict)
    """Facts for the manifest, such as a known noise floor."""
    columns: ColumnsConfig | None = None
    """Which columns of the log were taken; None where the source decides that by itself."""
    not_used: dict[str, list[str]] = field(default_factory=dict)
    """Columns of each file that the store will not have."""
    hints: list[str] = field(default_factory=list)
    """What the log has that options could make use of, each in one line with what to type."""
    parts: tuple[pl.LazyFrame, ...] = ()
    """The frames that ``interactions`` joins, where it joins many: rows amid one frame are found at
    once, and amid joined ones only by reading those before."""

    @property
    def frames(self) -> tuple[pl.LazyFrame, ...]:
        """The log in order, in one or more frames."""
        return self.parts or (self.interactions,)


def reads(*options: str) -> Callable[[OpenSource], OpenSource]:
    """Declare which of ``CHECKED_OPTIONS`` a source reads; without it, a source reads ``path``.

    ``open_source`` refuses the others where they are set, and requires ``path`` where it is read.
    """

    def declare(source: OpenSource) -> OpenSource:
        source.options_read = options  # type: ignore[attr-defined]
        return source

    return declare


def options_read(source: OpenSource) -> tuple[str, ...]:
    """The options that a source declared to read."""
    return getattr(source, "options_read", ("path",))


def local_folder(config: DataConfig) -> str:
    """``data.path`` as a folder on this disk, without a slash at its end.

    Raises ``InputError`` where it is none.
    """
    assert config.path is not None
    require(
        Path(config.path).is_dir(),
        f"data.path={config.path} is no folder here; data={config.source} reads a local folder",
    )
    return config.path.rstrip("/")


def file_columns(frame: pl.LazyFrame) -> list[str]:
    """The columns that a frame has from its file."""
    return [name for name in frame.collect_schema().names() if name not in BOOKKEEPING]


def require_columns(frame: pl.LazyFrame, path: str, columns: tuple[str, ...]) -> None:
    """Raise ``InputError`` unless a frame of ``scan_text`` has the columns."""
    in_file = file_columns(frame)
    missing = [c for c in columns if c not in in_file]
    require(
        not missing,
        f"{Path(path).name} has no column {', '.join(missing)}; it has {', '.join(in_file)}",
    )


def interactions_of(frame: pl.LazyFrame, names: dict[str, str]) -> pl.LazyFrame:
    """``Source.interactions`` of a frame; ``names`` maps ``user``, ``item``, ... to its columns.

    A rating or timestamp that is not named, or that the frame does not have, is null throughout;
    there is an ``event`` only where it is named.
    """
    available = frame.collect_schema().names()
    wanted = ["user", "item", "rating", "timestamp", *(["event"] if names.get("event") else [])]
    return frame.select(
        *[
            (pl.col(names[n]) if names.get(n) in available else pl.lit(None, pl.String)).alias(n)
            for n in wanted
        ],
        *BOOKKEEPING,
    )


def entity_table(
    frame: pl.LazyFrame,
    id_column: str,
    columns: list[pl.Expr],
    features: dict[str, Kind],
    *,
    missing: Sequence[str] = MISSING_VALUES,
) -> Table:
    """A table of users or items from a frame.

    ``columns`` gives the features, and ``features`` their kinds by name; ``missing`` are spellings
    of no value. A list in brackets that is not understood is a fault of its row. Raises
    ``InputError`` where a feature's name cannot be used.
    """
    require_feature_names(features)
    schema = frame.collect_schema()
    entity_id = id_value(id_column, schema[id_column], missing)
    texts = [n for n, k in features.items() if k == "token_list" and schema.get(n) == pl.String]
    reason = pl.coalesce(
        "reason",
        pl.when(entity_id.is_bad).then(pl.lit("the id is no whole number, as others are")),
        *(pl.when(is_broken_list(n)).then(pl.lit(f"{n} is no list in brackets")) for n in texts),
    ).alias("reason")
    ids = entity_id.value.cast(pl.String).alias("id")
    return Table(frame.select(ids, *columns, "file", "line", reason, "text"), features)


def require_feature_names(features: Iterable[str]) -> None:
    """Raise ``InputError`` where a feature's name cannot be used."""
    names = list(features)
    reserved = sorted({*RESERVED_COLUMNS} & {*names})
    require(not reserved, f"a feature may not be called {', '.join(reserved)}; rename that column")
    # A feature's vocabulary is a file of its name.
    slashed = [name for name in names if "/" in name]
    require(not slashed, f"feature '{''.join(slashed[:1])}' holds a '/'; rename that column")


def single_value(column: str, missing: Sequence[str] = MISSING_VALUES) -> pl.Expr:
    """A ``token`` or ``float`` feature: the stripped value, or null where the file has none."""
    value = pl.col(column).str.strip_chars()
    return pl.when(~is_missing(value, missing)).then(value).alias(column)
