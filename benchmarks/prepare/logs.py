"""Synthetic logs of any size, written a chunk at a time.

Users are uniform, items follow Zipf's law with exponent 1.2, and 30% of the rows repeat the user
and the item of another one. A chunk's rows depend on its number alone.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import csv

CHUNK_ROWS = 1_000_000
NUM_ITEMS = 100_000
ROWS_PER_USER = 30
ZIPF_EXPONENT = 1.2
REPEATED_FRACTION = 0.3
NUM_SMALL_FILES = 10_000
HEAVY_USER_ROWS = 1_000_000
SHAPES = ("plain", "one row group", "small files", "heavy user")
"""``plain``, and what may be hard: all rows in one row group, ten thousand files, and a user with a
million rows (at most half the log)."""
SCHEMA = pa.schema(
    [
        ("user", pa.int64()),
        ("item", pa.int64()),
        ("rating", pa.float32()),
        ("timestamp", pa.int64()),
    ]
)


def write_log(
    folder: Path,
    num_rows: int,
    form: str,
    shape: str = "plain",
    num_items: int = NUM_ITEMS,
    exponent: float = ZIPF_EXPONENT,
) -> Path:
    """Write a log of form ``parquet`` or ``csv``; what is already there is left as it is.

    Returns its file, or its folder of files. With an ``exponent`` of 0 all items are alike.
    """
    name = f"{shape.replace(' ', '-')}-{num_rows}-{num_items}-{exponent:g}"
    path = folder / (name if shape == "small files" else f"{name}.{form}")
    if path.exists():
        return path
    partial = path.with_name(f"partial-{path.name}")
    chunks = log_chunks(num_rows, shape, num_items, exponent)
    if shape == "small files":
        partial.mkdir()
        _write_small_files(partial, chunks, num_rows)
    elif form == "csv":
        with csv.CSVWriter(str(partial), SCHEMA) as csv_writer:
            for chunk in chunks:
                csv_writer.write_table(chunk)
    elif shape == "one row group":
        pq.write_table(pa.concat_tables(chunks), partial, row_group_size=num_rows)
    else:
        with pq.ParquetWriter(partial, SCHEMA) as writer:
            for chunk in chunks:
                writer.write_table(chunk)
    return partial.rename(path)


def log_chunks(
    num_rows: int,
    shape: str = "plain",
    num_items: int = NUM_ITEMS,
    exponent: float = ZIPF_EXPONENT,
) -> Iterator[pa.Table]:
    """The log's rows; of many items not all are met."""
    weight = 1 / np.arange(1, num_items + 1) ** exponent
    cumulated = np.cumsum(weight / weight.sum())
    item_at = np.random.default_rng([0, 0]).permutation(num_items)
    heavy_share = min(HEAVY_USER_ROWS / num_rows, 0.5) if shape == "heavy user" else 0.0
    for start in range(0, num_rows, CHUNK_ROWS):
        size = min(CHUNK_ROWS, num_rows - start)
        rng = np.random.default_rng([0, 1, start])
        user = rng.integers(0, max(1, num_rows // ROWS_PER_USER), size)
        item = item_at[np.searchsorted(cumulated, rng.random(size)).clip(max=num_items - 1)]
        _repeat(rng, user, item)
        rating = (rng.integers(1, 11, size) / 2).astype(np.float32)
        timestamp = 1_500_000_000 + rng.integers(0, 10**8, size)
        user[rng.random(size) < heavy_share] = 0
        yield pa.table([user, item, rating, timestamp], schema=SCHEMA)


def _repeat(rng: np.random.Generator, user: NDArray[np.int64], item: NDArray[np.int64]) -> None:
    """Give a share of the rows another row's user and item, in place."""
    is_repeat = rng.random(len(user)) < REPEATED_FRACTION
    source = rng.integers(0, len(user), len(user))[is_repeat]
    user[is_repeat], item[is_repeat] = user[source], item[source]


def _write_small_files(folder: Path, chunks: Iterator[pa.Table], num_rows: int) -> None:
    size = max(1, num_rows // NUM_SMALL_FILES)
    number = 0
    for chunk in chunks:
        for start in range(0, len(chunk), size):
            pq.write_table(chunk.slice(start, size), folder / f"part-{number:06d}.parquet")
            number += 1
