"""Rows dealt to files by user, so that each file can be read whole later.

Files are Arrow streams that grow batch by batch: memory holds one batch, however many rows, buckets
and batches there are.
"""

from pathlib import Path
from types import TracebackType

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from greatmeta_dist.data.hashing import draw_bits, hash_tokens, mix


class BucketWriter:
    """Appends rows to one file a bucket; a context manager that closes the files."""

    def __init__(self, folder: Path, num_buckets: int):
        """``folder`` is made; at most 256 buckets."""
        assert num_buckets <= 256
        folder.mkdir(parents=True)
        self.folder, self.num_buckets = folder, num_buckets
        self._writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}

    def write(self, rows: pl.DataFrame) -> None:
        """Append rows, each to the bucket of its ``user``; rows of a bucket keep their order."""
        bucket = bucket_of(rows["user"], self.num_buckets)
        # Of 8-bit keys a stable sort counts them, in linear time.
        ordered = rows[np.argsort(bucket, kind="stable").astype(np.uint32)]
        batch = ordered.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks()
        ends = np.cumsum(np.bincount(bucket, minlength=self.num_buckets))
        start = 0
        for number, end in enumerate(ends.tolist()):
            if end > start:
                self._writer(number, batch.schema).write_table(batch.slice(start, end - start))
            start = end

    def _writer(self, number: int, schema: pa.Schema) -> pa.ipc.RecordBatchStreamWriter:
        if number not in self._writers:
            self._writers[number] = pa.ipc.new_stream(
                str(bucket_path(self.folder, number)),
                schema,
                options=pa.ipc.IpcWriteOptions(compression="lz4"),
            )
        return self._writers[number]

    def __enter__(self) -> "BucketWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for writer in self._writers.values():
            writer.close()


def bucket_path(folder: Path, number: int) -> Path:
    """The file of a bucket; there is none where the bucket is empty."""
    return folder / f"bucket-{number}.arrows"


def read_bucket(folder: Path, number: int) -> pl.DataFrame | None:
    """A bucket's rows, in the order in which they were written; None where there are none."""
    path = bucket_path(folder, number)
    if not path.exists():
        return None
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        table = pl.from_arrow(reader.read_all())
    assert isinstance(table, pl.DataFrame)
    return table


def bucket_of(user: pl.Series, num_buckets: int) -> NDArray[np.uint8]:
    """[n] the bucket of each user, from its own hash: no library's version matters."""
    if user.dtype == pl.String:
        hashes = draw_bits(hash_tokens(user), 0, "bucket")
    else:
        hashes = mix(user.to_numpy().view(np.uint64))
    return ((hashes >> np.uint64(40)) % np.uint64(num_buckets)).astype(np.uint8)
