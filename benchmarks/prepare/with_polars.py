"""The same shards by a plain Polars script: ``python -P with_polars.py PATH OUT NUM_BUCKETS``.

It checks nothing: it buckets by user, removes repeats, codes items, sorts, and writes lists.
"""

import shutil
import sys
from pathlib import Path

import polars as pl


def main(path: str, out: Path, num_buckets: int) -> None:
    out.mkdir()
    files = f"{path}/*.parquet" if Path(path).is_dir() else path
    log = pl.scan_csv(files) if path.endswith(".csv") else pl.scan_parquet(files)
    items = log.select("item").unique().collect(engine="streaming").sort("item")
    items = items.with_row_index("code").with_columns(pl.col("code").cast(pl.Int32))
    coded = log.join(items.lazy(), on="item", how="left")
    bucket = pl.col("user").hash(0) % num_buckets
    coded.select("user", "code", "rating", "timestamp", bucket=bucket).sink_parquet(
        pl.PartitionBy(out / "buckets", key="bucket", include_key=False), mkdir=True
    )
    for k in range(num_buckets):
        rows = pl.read_parquet(f"{out}/buckets/bucket={k}/*.parquet")
        rows = rows.sort("user", "code", "timestamp")
        rows = rows.unique(["user", "code"], keep="last", maintain_order=True)
        rows = rows.sort("user", "timestamp")
        lists = rows.group_by("user", maintain_order=True).agg("code", "rating")
        lists.write_ipc(out / f"shard-{k}.arrow")
    shutil.rmtree(out / "buckets")
    items.write_parquet(out / "items.parquet")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
