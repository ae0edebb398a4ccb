"""A list of items in a file: text with an item on each line, or a table with a column of items."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.sources.columns import usual_columns
from greatmeta_dist.data.sources.folders import bare_name, format_of
from greatmeta_dist.data.sources.mapped import Files, Reader
from greatmeta_dist.data.values import id_value
from greatmeta_dist.errors import require


def read_items(path: str, option: str, in_log: str, work: Path) -> list[str]:
    """The distinct items of a file, in order, as tokens of a catalogue.

    ``option`` is what names the file, and ``in_log`` how the run's log calls the item. Raises
    ``InputError`` where the file is unreadable or empty, where no column is the item, or a row is
    no item.
    """
    require("://" in path or Path(path).exists(), f"{option}={path} does not exist; name a file")
    config = DataConfig(source="csv", path=path)
    table = Files.at(path, format_of(path, "csv"))
    available = Reader(config, work).columns(table)
    column = item_column(path, option, in_log, available)
    if column is None:
        config, column, work = replace(config, has_header=False), "1", work / f"{option}-no-header"
        work.mkdir(exist_ok=True)
    frame = Reader(config, work).scan(table, {column: "id"}).collect(engine="streaming")
    value = id_value(column, frame.schema[column], config.missing_values)
    rows = frame.select(
        item=value.value.cast(pl.String),
        is_bad=pl.col("reason").is_not_null() | value.is_missing | value.is_bad,
        line="line",
        file="file",
    )
    bad = rows.filter(pl.col("is_bad"))
    if len(bad):
        first = bad.row(0, named=True)
        require(
            False,
            f"{option}={path}: {len(bad)} of {len(rows)} lines hold no item; the first: "
            f"{first['file']}, line {first['line']}; mend the file",
        )
    require(bool(len(rows)), f"{option}={path} holds no item")
    return rows["item"].unique(maintain_order=True).to_list()


def item_column(path: str, option: str, in_log: str, available: Sequence[str]) -> str | None:
    """The column of items; None where the file is text with an item on each line."""
    if in_log in available:
        return in_log
    candidates = usual_columns("item", available)
    if not candidates and len(available) == 1 and bare_name(path).endswith(".txt"):
        return None
    require(
        len(candidates) == 1,
        f"{option}={path}: it is not clear which column is the item; it has "
        f"{', '.join(available)}; call one item, or write a .txt with an item on each line",
    )
    return candidates[0]
