"""CSV and Parquet logs of any columns: ``data.columns`` says which column is what."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.sources.base import (
    CHECKED_OPTIONS,
    Kind,
    Source,
    Table,
    entity_table,
    interactions_of,
    reads,
    require_columns,
    single_value,
    value_list,
)
from greatmeta_dist.data.text import INTERNAL, TextFormat, local_copy, scan_text
from greatmeta_dist.errors import InputError, require

LIST_MARK = "|"
"""Joins the values of a Parquet list, so that it can be read as a ``token_list`` of text is."""

Scan = Callable[[str, list[str]], pl.LazyFrame]
"""(path, columns) → a frame of these columns, and perhaps others."""


@reads(*CHECKED_OPTIONS)
def open_csv(config: DataConfig, work: Path) -> Source:
    """Open the CSV file ``data.path`` (local or a URL, perhaps compressed), and the features."""
    fmt = TextFormat(config.separator, is_quoted=True, encoding=config.encoding)

    def scan(path: str, columns: list[str]) -> pl.LazyFrame:
        frame = scan_text(path, fmt, work)
        require_columns(frame, path, tuple(columns))
        return frame

    return _open_mapped(config, work, scan, scan, config.list_separator)


@reads(*CHECKED_OPTIONS)
def open_parquet(config: DataConfig, work: Path) -> Source:
    """Open the Parquet file ``data.path``, or all of such a folder, and the features."""

    def scan_log(path: str, columns: list[str]) -> pl.LazyFrame:
        return scan_columns(path, columns, work)

    def scan(path: str, columns: list[str]) -> pl.LazyFrame:
        frame = scan_columns(path, columns, work)
        schema = frame.collect_schema()
        return frame.with_columns(_as_text(c, schema[c]) for c in columns)

    return _open_mapped(config, work, scan_log, scan, LIST_MARK)


def _open_mapped(
    config: DataConfig, work: Path, scan_log: Scan, scan: Scan, list_separator: str
) -> Source:
    """``scan_log`` reads the log's columns as they are, ``scan`` those of features as text."""
    column_of = {k: v for k, v in asdict(config.columns).items() if v is not None}
    clashing = sorted({*INTERNAL} & {*column_of.values()})
    require(
        not clashing,
        f"data.columns names '{''.join(clashing[:1])}', as the preparation calls a column of its "
        "own; rename that column",
    )
    for name, kind in {**config.user_features, **config.item_features}.items():
        require(
            kind in ("token", "token_list", "float"),
            f"feature {name} has kind '{kind}'; expected token, token_list or float",
        )

    def entities(path: str | None, side: str, kinds: dict[str, Kind]) -> Table | None:
        if path is None:
            require(not kinds, f"features {', '.join(kinds)} are named but {side}s_path is not set")
            return None
        id_column = column_of[side]
        columns = [
            value_list(n, list_separator) if k == "token_list" else single_value(n)
            for n, k in kinds.items()
        ]
        return entity_table(scan(path, [id_column, *kinds]), id_column, columns, kinds)

    assert config.path is not None
    log = scan_log(config.path, list(column_of.values()))
    paths = [p for p in (config.path, config.users_path, config.items_path) if p]
    return Source(
        interactions_of(log, column_of),
        has_timestamp="timestamp" in column_of,
        users=entities(config.users_path, "user", dict(config.user_features)),  # type: ignore[arg-type]
        items=entities(config.items_path, "item", dict(config.item_features)),  # type: ignore[arg-type]
        files=tuple(file for p in paths for file in _files_at(local_copy(p, work))),
    )


def _files_at(path: Path) -> list[Path]:
    """The Parquet files of a folder, or the file itself."""
    return sorted(path.glob("*.parquet")) if path.is_dir() else [path]


def scan_columns(path: str, columns: list[str], work: Path) -> pl.LazyFrame:
    """Columns of a Parquet file or folder as they are, in the frame of a source (``sources/base``).

    Raises ``InputError`` where it is missing or unreadable, or lacks a column.
    """
    local = local_copy(path, work)
    require(local.exists(), f"{path} does not exist; check the path")
    files = _files_at(local)
    require(bool(files), f"{path} holds no .parquet file; name a file or a folder of them")
    try:
        schema = pl.scan_parquet(files, glob=False).collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error
    missing = [c for c in columns if c not in schema]
    require(
        not missing,
        f"{path} has no column {', '.join(missing)}; it has {', '.join(schema.names())}",
    )
    nested = [c for c in columns if isinstance(schema[c], pl.Struct)]
    require(not nested, f"{path}: column {''.join(nested[:1])} is a struct; expected plain values")
    # With a space, because a file may have a column "row" of its own.
    frame = pl.scan_parquet(files, glob=False).select(columns).with_row_index("row ")
    return frame.select(
        *columns,
        file=pl.lit(Path(path).name),
        line=pl.col("row ").cast(pl.Int64) + 1,
        reason=pl.lit(None, pl.String),
        text=pl.lit(None, pl.String),
    )


def _as_text(column: str, kind: pl.DataType) -> pl.Expr:
    """A Parquet column as strings: lists joined by ``|``, dates as seconds since 1970."""
    value = pl.col(column)
    if isinstance(kind, pl.List):
        return value.list.eval(pl.element().cast(pl.String)).list.join(LIST_MARK).alias(column)
    if kind.is_temporal() and kind != pl.Duration and kind != pl.Time:
        value = value.cast(pl.Datetime("us")).dt.epoch("us") / 1e6
    return value.cast(pl.String)
