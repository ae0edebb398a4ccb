"""Tables of a preparation in Arrow files, which appear whole or not at all."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import polars as pl
import pyarrow as pa

from greatmeta_dist.files import written_atomically

NUM_CACHED = 4
"""Shared tables that a process keeps open: units of one phase read the same ones."""


def write_table(path: Path, table: pl.DataFrame) -> None:
    """Write a table, whole or not at all."""
    with written_atomically(path) as partial:
        table.write_ipc(partial)


def read_table(path: Path) -> pl.DataFrame:
    """Read a table, memory-mapped. (The reader of Polars takes a path for a pattern.)"""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        table = pl.from_arrow(reader.read_all())
    assert isinstance(table, pl.DataFrame)
    return table


def read_tables(paths: Sequence[Path]) -> Iterator[pl.DataFrame]:
    """The tables that some units wrote; units that wrote none are passed over."""
    for path in paths:
        if path.exists():
            yield read_table(path)


def shared_table(path: Path) -> pl.DataFrame:
    """A table that every unit reads; a process keeps it open."""
    return _opened(path, path.stat().st_mtime_ns)


@lru_cache(NUM_CACHED)
def _opened(path: Path, modified_ns: int) -> pl.DataFrame:
    return read_table(path)
