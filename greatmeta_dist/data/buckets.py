"""Rows in buckets by user, so that a bucket can be read whole later.

Each unit of a log writes one file with the rows of all buckets, batch by batch; its index says
which bucket each batch is of. So there are as many files as units, and memory holds one batch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from greatmeta_dist.data.hashing import draw_bits, hash_tokens, mix


@dataclass(frozen=True)
class BucketFile:
    """The rows of one unit, by bucket."""

    path: Path
    """There is no such file where there are no rows."""
    buckets: tuple[int, ...]
    """The bucket of each record batch."""
    sha256: str = ""
    """Of the file, where it is to be kept."""


class BucketWriter:
    """Writes a file of rows by bucket; a context manager that closes it."""

    def __init__(self, path: Path, num_buckets: int):
        """At most 256 buckets."""
        assert num_buckets <= 256
        self.num_buckets = num_buckets
        self.buckets: list[int] = []
        """The bucket of each record batch that was written."""
        self._path = path
        self._writer: pa.ipc.RecordBatchFileWriter | None = None

    def write(self, rows: pl.DataFrame) -> None:
        """Write rows, each to the bucket of its ``user``; rows of a bucket keep their order."""
        if not len(rows):
            return
        bucket = bucket_of(rows["user"], self.num_buckets)
        # Of 8-bit keys a stable sort counts them, in linear time.
        ordered = rows[np.argsort(bucket, kind="stable").astype(np.uint32)]
        table = ordered.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
        (batch,) = table.combine_chunks().to_batches()
        if self._writer is None:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pa.ipc.new_file(str(self._path), batch.schema, options=options)
        ends = np.cumsum(np.bincount(bucket, minlength=self.num_buckets))
        start = 0
        for number, end in enumerate(ends.tolist()):
            if end > start:
                self._writer.write_batch(batch.slice(start, end - start))
                self.buckets.append(number)
            start = end

    def __enter__(self) -> "BucketWriter":
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()


def read_bucket(files: Iterable[BucketFile], number: int) -> pl.DataFrame | None:
    """A bucket's rows, in the order in which they were written; None where there are none."""
    batches: list[pa.RecordBatch] = []
    for file in files:
        places = [k for k, bucket in enumerate(file.buckets) if bucket == number]
        if places:
            with pa.memory_map(str(file.path)) as source, pa.ipc.open_file(source) as reader:
                batches += [reader.get_batch(k) for k in places]
    if not batches:
        return None
    table = pl.from_arrow(pa.Table.from_batches(batches))
    assert isinstance(table, pl.DataFrame)
    return table


def read_columns(file: BucketFile, names: list[str]) -> pl.DataFrame | None:
    """Some columns of a unit's rows, in the order of the file; None where it has no rows."""
    if not file.path.exists():
        return None
    with pa.memory_map(str(file.path)) as source:
        schema = pa.ipc.open_file(source).schema
        chosen = [schema.get_field_index(name) for name in names]
        options = pa.ipc.IpcReadOptions(included_fields=chosen)
        table = pl.from_arrow(pa.ipc.open_file(source, options=options).read_all())
    assert isinstance(table, pl.DataFrame)
    return table


def bucket_of(user: pl.Series, num_buckets: int) -> NDArray[np.uint8]:
    """[n] the bucket of each user, from its own hash: no library's version matters."""
    if user.dtype == pl.String:
        hashes = draw_bits(hash_tokens(user), 0, "bucket")
    else:
        hashes = mix(user.to_numpy().view(np.uint64))
    return ((hashes >> np.uint64(40)) % np.uint64(num_buckets)).astype(np.uint8)
