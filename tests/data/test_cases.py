"""Logs in forms that people have, whole: what a store holds of each is what the files say."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from stores import rows_of

from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.report import Report
from greatmeta_dist.data.store import Store

CASES = Path(__file__).parent / "cases"
COLUMNS = ColumnsConfig("user", "item", "rating", "ts")


@pytest.fixture
def prepared(tmp_path):
    """``prepared(source, path, ...)``: a case's report, and the distinct rows of its store."""

    def run(source: str, path: str, **options) -> tuple[Report, pl.DataFrame]:
        for name in ("items_path", "users_path"):
            if name in options:
                options[name] = str(CASES / options[name])
        options.setdefault("columns", COLUMNS if source != "recbole" else ColumnsConfig())
        config = DataConfig(source=source, path=str(CASES / path), **options)
        report = prepare(config, tmp_path / "store")
        store = Store(tmp_path / "store")
        rows = pl.concat(rows_of(store, split) for split in store.manifest.splits)
        return report, rows.select("user", "item", "label").unique()

    return run


def expected(frame: pl.DataFrame, user="user", item="item", label="rating") -> pl.DataFrame:
    """``user item label`` of a log as a plain reader reads it."""
    text = [pl.col(user).cast(pl.String), pl.col(item).cast(pl.String)]
    return frame.select(user=text[0], item=text[1], label=pl.col(label).cast(pl.Float32))


def require_same(rows: pl.DataFrame, log: pl.DataFrame) -> None:
    key = ["user", "item"]
    rows, log = (f.with_columns(pl.col("label").cast(pl.Float32)).sort(key) for f in (rows, log))
    assert rows.equals(log)


def atomic(path: str) -> pl.DataFrame:
    frame = pl.read_csv(CASES / path, separator="\t")
    return frame.rename({c: c.partition(":")[0] for c in frame.columns})


def test_a_price_that_is_none_in_most_rows_is_missing(prepared, tmp_path):
    report, rows = prepared("recbole", "01")
    require_same(rows, expected(atomic("01/x.inter"), "user_id", "item_id"))
    assert (report.rejected, report.rejected_elsewhere) == (0, {})
    fields = {f.name for f in Store(tmp_path / "store").manifest.fields}
    assert fields == {"item_id", "categories", "price"}


@pytest.mark.parametrize("folder", ["ints", "mixed"])
def test_parts_of_a_folder_may_differ_in_number_types(prepared, folder):
    report, rows = prepared("parquet", f"06/{folder}")
    parts = [pl.read_parquet(CASES / f"06/{folder}/part-{k}.parquet") for k in range(2)]
    require_same(rows, pl.concat(expected(part) for part in parts))
    assert report.read == sum(map(len, parts))


def test_a_hive_folder_is_read_whole(prepared):
    report, rows = prepared("parquet", "08")
    paths = [CASES / f"08/day={k}/part-0.parquet" for k in range(2)]
    parts = [pl.read_parquet(path, hive_partitioning=False) for path in paths]
    require_same(rows, pl.concat(expected(part) for part in parts))
    assert report.not_used == {"day=0/part-0.parquet": ["day"]}


def test_whole_floats_are_the_integers_of_the_items_file(prepared):
    report, rows = prepared(
        "parquet",
        "09/log.parquet",
        items_path="09/items.parquet",
        item_features={"genre": "token_list"},
    )
    log = pl.read_parquet(CASES / "09/log.parquet").drop_nulls("item")
    require_same(rows, expected(log.with_columns(pl.col("item").cast(pl.Int64))))
    assert (report.rejected, report.reasons) == (1, {"no item": 1})
    assert report.unlisted_items == 0


def test_an_unnamed_index_column_is_not_used(prepared):
    report, rows = prepared("csv", "10/log.csv", columns=ColumnsConfig())
    log = pl.read_csv(CASES / "10/log.csv")
    require_same(rows, expected(log, "userId", "movieId"))
    assert report.columns == {
        "user": "userId", "item": "movieId", "rating": "rating", "timestamp": "timestamp",
    }  # fmt: skip
    assert report.not_used == {"log.csv": ["(column 1)"]}


def test_a_quoted_header_is_split_as_rows_are(prepared):
    columns = ColumnsConfig("user", "item", "rating, in stars", "ts")
    _, rows = prepared("csv", "12/log.csv", columns=columns)
    log = pl.read_csv(CASES / "12/log.csv")
    require_same(rows, expected(log, label="rating, in stars"))


def test_a_name_that_nobody_mapped_may_stand_twice(prepared):
    report, rows = prepared("csv", "12/dup.csv")
    require_same(rows, expected(pl.read_csv(CASES / "12/dup.csv")))
    assert report.not_used == {"dup.csv": ["note (column 5)", "note (column 6)"]}


def test_repeats_of_an_event_log_merge_and_are_counted(prepared):
    report, rows = prepared("recbole", "13", label="click", click_at=None)
    log = atomic("13/x.inter")
    pairs = log.select("user_id", "item_id").unique()
    assert (report.read, report.rejected) == (len(log), 0)
    assert report.repeats == len(log) - len(pairs)
    clicked = rows.filter(pl.col("label") == 1)
    assert len(clicked) == len(pairs)
    assert report.not_used == {"x.inter": ["weight:float"]}


def test_an_event_log_needs_no_threshold_of_clicks(prepared):
    report, _ = prepared("recbole", "13", label="click")
    assert report.rejected == 0
    assert report.columns["rating"] is None


def test_clicked_once_is_a_click(prepared):
    columns = ColumnsConfig("user", "item", "clicked", "ts")
    _, rows = prepared("csv", "14/log.csv", label="click", click_at=1, columns=columns)
    log = pl.read_csv(CASES / "14/log.csv")
    clicks = log.group_by("user", "item").agg(pl.col("clicked").max())
    require_same(rows, expected(clicks, label="clicked"))


def test_items_that_the_items_file_lacks_keep_their_ratings(prepared):
    report, rows = prepared(
        "csv", "15/log.csv", items_path="15/items.csv", item_features={"genre": "token_list"}
    )
    log, items = pl.read_csv(CASES / "15/log.csv"), pl.read_csv(CASES / "15/items.csv")
    require_same(rows, expected(log))
    assert report.unlisted_items == len({*log["item"]} - {*items["item"]}) > 0
    assert report.rejected == 0


def test_rows_without_time_are_kept_where_order_is_not_by_time(prepared):
    report, rows = prepared("csv", "16/log.csv")
    log = pl.read_csv(CASES / "16/log.csv")
    assert log["ts"].null_count() > 0
    require_same(rows, expected(log))
    assert report.rejected == 0


def test_numbers_of_a_vector_are_features(prepared, tmp_path):
    report, rows = prepared("recbole", "17")
    require_same(rows, expected(atomic("17/x.inter"), "user_id", "item_id"))
    assert report.not_used == {}
    fields = {"item_id", "genre", "emb_1", "emb_2", "emb_3"}
    assert {f.name for f in Store(tmp_path / "store").manifest.fields} == fields


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_booleans_are_0_and_1(prepared, kind):
    columns = ColumnsConfig("user", "item", "click", "ts")
    _, rows = prepared(kind, f"18/log.{kind}", label="click", click_at=1, columns=columns)
    log = pl.read_parquet(CASES / "18/log.parquet")
    require_same(rows, expected(log, label="click"))
    assert np.isin(rows["label"].to_numpy(), [0, 1]).all()
