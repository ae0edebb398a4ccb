"""The same shards by pandas, all in memory: ``python -P with_pandas.py PATH OUT NUM_BUCKETS``."""

import sys
from pathlib import Path

import pandas as pd  # type: ignore[import-untyped, import-not-found, unused-ignore]
import pyarrow as pa


def main(path: str, out: Path, num_buckets: int) -> None:
    out.mkdir()
    log = pd.read_csv(path) if path.endswith(".csv") else pd.read_parquet(path)
    log["code"], items = pd.factorize(log["item"], sort=True)
    log = log.sort_values(["user", "code", "timestamp"])
    log = log.drop_duplicates(["user", "code"], keep="last").sort_values(["user", "timestamp"])
    for k, rows in log.groupby(log["user"] % num_buckets):
        lists = rows.groupby("user")[["code", "rating"]].agg(list).reset_index()
        shard = pa.Table.from_pandas(lists, preserve_index=False)
        with pa.ipc.new_file(str(out / f"shard-{k}.arrow"), shard.schema) as writer:
            writer.write_table(shard)
    pd.DataFrame({"item": items}).to_parquet(out / "items.parquet")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
