"""Rows are dealt to files by user, and none is lost."""

import polars as pl
import pytest

from greatmeta_dist.data.buckets import BucketFile, BucketWriter, bucket_of, read_bucket


@pytest.mark.parametrize("users", [list(range(50)), [f"u{k}" for k in range(50)]])
def test_every_row_is_in_its_users_bucket_in_the_order_written(tmp_path, users):
    rows = pl.DataFrame({"user": users * 3, "line": range(150)})
    files = []
    for number, unit in enumerate(rows.iter_slices(80)):
        with BucketWriter(tmp_path / str(number), 8) as writer:
            for batch in unit.iter_slices(40):
                writer.write(batch)
        files.append(BucketFile(tmp_path / str(number), tuple(writer.buckets)))
    buckets = [read_bucket(files, k) for k in range(8)]
    for number, bucket in enumerate(buckets):
        assert bucket is not None
        assert (bucket_of(bucket["user"], 8) == number).all()
        assert bucket["line"].is_sorted()
    assert pl.concat(buckets).sort("line").equals(rows)


def test_an_empty_bucket_has_no_rows(tmp_path):
    with BucketWriter(tmp_path / "buckets", 256) as writer:
        writer.write(pl.DataFrame({"user": [1]}))
    file = BucketFile(tmp_path / "buckets", tuple(writer.buckets))
    buckets = [read_bucket([file], k) for k in range(256)]
    assert sum(bucket is not None for bucket in buckets) == 1
