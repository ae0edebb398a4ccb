"""What a source of interactions is, and what several sources share.

A source is a function ``(DataConfig, work folder) -> Source``. It opens a log in one form, says
which columns are which, and checks no value: values stay as they are until ``data/scan.py`` checks
them. A new source is one module with such a function, and one line in ``extensions.SOURCES`` or in
the entry points of a package (group ``greatmeta_dist.sources``).

Frames of a source are lazy, and each has four columns beside its values:

    file    String   name of the file that the row is from
    line    Int64    its line there (of Parquet: its row), from 1
    reason  String   why the row is malformed; null where it is well formed
    text    String   the line as it is where it is malformed; null elsewhere

``scan_text`` of ``data/text.py`` returns such frames.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.text import INTERNAL, is_missing
from greatmeta_dist.errors import require

Kind = Literal["token", "token_list", "float"]
"""Of a feature: one value, a list of values, or a number."""

OpenSource = Callable[[DataConfig, Path], "Source"]

CHECKED_OPTIONS = ("path", "users_path", "items_path", "user_features", "item_features")
"""Options of ``data`` that some sources read and others do not."""

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
    none)."""
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


def require_columns(frame: pl.LazyFrame, path: str, columns: tuple[str, ...]) -> None:
    """Raise ``InputError`` unless a frame of ``scan_text`` has the columns."""
    available = frame.collect_schema().names()
    missing = [c for c in columns if c not in available]
    in_file = available[:-4]  # without file, line, reason and text
    require(
        not missing,
        f"{Path(path).name} has no column {', '.join(missing)}; it has {', '.join(in_file)}",
    )


def interactions_of(frame: pl.LazyFrame, names: dict[str, str]) -> pl.LazyFrame:
    """``Source.interactions`` of a frame; ``names`` maps ``user``, ``item``, ... to its columns.

    A rating or timestamp that is not named, or that the frame does not have, is null throughout.
    """
    available = frame.collect_schema().names()
    return frame.select(
        *[
            (pl.col(names[n]) if names.get(n) in available else pl.lit(None, pl.String)).alias(n)
            for n in ("user", "item", "rating", "timestamp")
        ],
        "file", "line", "reason", "text",
    )  # fmt: skip


def entity_table(
    frame: pl.LazyFrame, id_column: str, columns: list[pl.Expr], features: dict[str, Kind]
) -> Table:
    """A table of users or items from a frame.

    ``columns`` gives the features, and ``features`` their kinds by name. Raises ``InputError``
    where a feature's name cannot be used.
    """
    reserved = sorted({*RESERVED_COLUMNS} & {*features})
    require(not reserved, f"a feature may not be called {', '.join(reserved)}; rename that column")
    # A feature's vocabulary is a file of its name.
    slashed = [name for name in features if "/" in name]
    require(not slashed, f"feature '{''.join(slashed[:1])}' holds a '/'; rename that column")
    entity_id = pl.col(id_column).str.strip_chars().alias("id")
    return Table(frame.select(entity_id, *columns, "file", "line", "reason", "text"), features)


def single_value(column: str) -> pl.Expr:
    """A ``token`` or ``float`` feature: the stripped value, or null where the file has none."""
    value = pl.col(column).str.strip_chars()
    return pl.when(is_missing(value) | (value == "NA")).then(None).otherwise(value).alias(column)


def value_list(column: str, separator: str) -> pl.Expr:
    """A ``token_list`` feature: distinct stripped values in order; empty where there are none."""
    values = pl.col(column).fill_null("").str.split(separator)
    value = pl.element().str.strip_chars()
    return values.list.eval(value.filter(~is_missing(value))).list.unique(maintain_order=True)
