"""The same shards by DuckDB: ``python -P with_duckdb.py PATH OUT NUM_BUCKETS``."""

import sys
from pathlib import Path

import duckdb  # type: ignore[import-not-found, unused-ignore]
import pyarrow as pa


def main(path: str, out: Path, num_buckets: int) -> None:
    out.mkdir()
    files = f"{path}/*.parquet" if Path(path).is_dir() else path
    reader = "read_csv" if path.endswith(".csv") else "read_parquet"
    db = duckdb.connect(str(out / "work.db"))
    db.execute("SET preserve_insertion_order=false")
    db.execute(f"CREATE VIEW log AS SELECT * FROM {reader}('{files}')")
    db.execute(
        "CREATE TABLE items AS SELECT item, (row_number() OVER (ORDER BY item) - 1)::INT AS code "
        "FROM (SELECT DISTINCT item FROM log)"
    )
    db.execute(
        "CREATE TABLE kept AS SELECT user, code, arg_max(rating, timestamp) AS rating, "
        f"max(timestamp) AS timestamp, (hash(user) % {num_buckets})::INT AS bucket "
        "FROM log JOIN items USING (item) GROUP BY user, code"
    )
    for k in range(num_buckets):
        shard = db.sql(
            "SELECT user, list(code ORDER BY timestamp) AS code, "
            "list(rating ORDER BY timestamp) AS rating "
            f"FROM kept WHERE bucket = {k} GROUP BY user ORDER BY user"
        ).to_arrow_table()
        with pa.ipc.new_file(str(out / f"shard-{k}.arrow"), shard.schema) as writer:
            writer.write_table(shard)
    db.execute(f"COPY items TO '{out}/items.parquet'")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
