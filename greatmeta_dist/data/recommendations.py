"""Recommendations as Parquet: ``user``, ``rank`` from 1, ``item``, ``score``, user by user.

A list of recommendations is one file, or a folder of files of such rows. Either appears whole or
not at all. Each file says in its metadata what it was made from.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from greatmeta_dist.files import written_atomically

MADE_FROM = b"greatmeta_recommendations"
"""The entry of a file's metadata that says what it was made from."""
ROWS_PER_GROUP = 1 << 17
"""Rows that are held in memory, and then written together."""


def recommendation_schema(
    user: pa.DataType, item: pa.DataType, made_from: str, extra: Sequence[pa.Field] = ()
) -> pa.Schema:
    """The columns of every file; ``made_from`` is a key of the run, the users and the options.

    ``extra`` columns stand behind the others.
    """
    fields = [
        pa.field("user", user),
        pa.field("rank", pa.int32()),
        pa.field("item", item),
        pa.field("score", pa.float32()),
        *extra,
    ]
    return pa.schema(fields, metadata={MADE_FROM: made_from})


class RecommendationWriter:
    """Writes rows in groups, so that memory holds one; a context manager that closes the file."""

    def __init__(self, path: Path, schema: pa.Schema):
        self.schema, self.num_rows = schema, 0
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0

    def write(self, rows: pa.Table) -> None:
        """Add rows, which are written when there are many."""
        self._waiting.append(rows)
        self._num_waiting += rows.num_rows
        self.num_rows += rows.num_rows
        while self._num_waiting >= ROWS_PER_GROUP:
            self._flush(ROWS_PER_GROUP)

    def _flush(self, num_rows: int) -> None:
        rows = pa.concat_tables(self._waiting)
        self._writer.write_table(rows.slice(0, num_rows), row_group_size=num_rows)
        self._waiting = [rows.slice(num_rows)]
        self._num_waiting -= num_rows

    def __enter__(self) -> "RecommendationWriter":
        return self

    def __exit__(self, *error: object) -> None:
        if self._num_waiting and error[0] is None:
            self._flush(self._num_waiting)
        self._writer.close()


def recommendation_rows(schema: pa.Schema, columns: Mapping[str, Any], lengths: Any) -> pa.Table:
    """Rows of some users: ``columns`` by name, ``user`` [U] once, the others row by row.

    ``lengths`` [U] are the rows of each user.
    """
    user = columns["user"].take(pa.array(np.repeat(np.arange(len(lengths)), lengths)))
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    rank = np.arange(len(starts)) - starts + 1
    whole = {**columns, "user": user, "rank": rank}
    arrays = [pa.array(whole[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def join_files(paths: Sequence[Path], target: Path, schema: pa.Schema) -> int:
    """Write the rows of some files as one, in order; returns how many these are."""
    with (
        written_atomically(target) as partial,
        RecommendationWriter(partial, schema) as writer,
    ):
        for rows in _read(paths):
            writer.write(rows.cast(schema))
    return writer.num_rows


def _read(paths: Sequence[Path]) -> Iterator[pa.Table]:
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_PER_GROUP):
                yield pa.Table.from_batches([batch])


def made_from(out: Path) -> str | None:
    """What recommendations at a path were made from; None where there are none."""
    files = sorted(out.glob("*.parquet")) if out.is_dir() else [out]
    try:
        metadata = pq.read_schema(files[0]).metadata or {}
        return str(metadata[MADE_FROM].decode())
    except (IndexError, KeyError, OSError, pa.ArrowInvalid):
        return None


def key_text(value: Any) -> str:
    """A key of plain values, in one order."""
    return json.dumps(value, sort_keys=True, default=str)
