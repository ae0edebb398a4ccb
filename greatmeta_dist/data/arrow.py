"""Arrow files with one record batch each, memory-mapped, and lists in them as ragged arrays."""

from pathlib import Path

import pyarrow as pa

from greatmeta_dist.ragged import Ragged


def write_arrow(path: Path, batch: pa.RecordBatch) -> None:
    """Write one record batch."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def map_arrow(path: Path) -> pa.RecordBatch:
    """The single record batch of a file, memory-mapped."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        assert reader.num_record_batches == 1, f"{path} has {reader.num_record_batches} batches"
        return reader.get_batch(0)


def num_rows(file: pa.NativeFile) -> int:
    """Rows of the single record batch of a file, of which no more than its first column is read."""
    options = pa.ipc.IpcReadOptions(included_fields=[0])
    return pa.ipc.open_file(file, options=options).get_batch(0).num_rows


def list_array(ragged: Ragged, kind: pa.DataType) -> pa.Array:
    """A ragged array as a list column of that value type."""
    return pa.LargeListArray.from_arrays(
        pa.array(ragged.offsets, pa.int64()), pa.array(ragged.values, kind)
    )


def ragged_of(column: pa.Array) -> Ragged:
    """A list column as views of its buffers: nothing is copied."""
    return Ragged(
        column.values.to_numpy(zero_copy_only=True), column.offsets.to_numpy(zero_copy_only=True)
    )


def join_batches(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """The rows of all batches as one; a single batch comes back as it is, not copied."""
    if len(batches) == 1:
        return batches[0]
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
