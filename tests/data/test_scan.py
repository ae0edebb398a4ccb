"""No row disappears silently: a bad one is rejected with its line and a reason."""

import re

import polars as pl
import pytest
from logs import COLUMNS, csv_config, write_log
from stores import CHOICE, normalised, rows_of, tasks_of

from benchmarks.fuzz.plain import plain_draw, plain_hash, plain_mix
from greatmeta_dist.config import DataConfig
from greatmeta_dist.data import scan
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.rejects import REJECTS, Rejects
from greatmeta_dist.data.sources import open_source
from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import InputError

BAD_ROWS = {
    "u1,i1": "expected 4 fields, found 2",
    "u1,i1,five,3": "rating is not a number",
    "u1,i1,,3": "rating is not a number",
    "u1,i1,nan,3": "rating is not a number",
    "u1,i1,9,3": "rating is outside 1 to 5",
    ",i1,4,3": "no user",
    "u1,,4,3": "no item",
    "u1,i1,4,noon": "timestamp is no time (a number, or ISO 8601) after 1900",
    '"u1,i1,4,3': "malformed quotes",
    "u1,i1,1e30,3": "rating is beyond 1e+15",
}


def test_every_kind_of_bad_row_is_rejected_with_file_line_and_reason(tmp_path):
    path = write_log(tmp_path)
    items = tmp_path / "items.csv"
    items.write_text("i,kind\n" + "".join(f"i{k},a\n" for k in range(50)) + "i3,b\n,c\n")
    good = path.read_text().splitlines()
    first_bad = len(good) + 1
    path.write_text("\n".join([*good, *BAD_ROWS, good[1], "u1,i999,4,3"]) + "\n")
    report = prepare(
        csv_config(
            path,
            rating_range=[1, 5],
            items_path=str(items),
            item_features={"kind": "token"},
            max_rejected_fraction=0.05,
        ),
        tmp_path / "store",
    )
    rejects = pl.read_parquet(tmp_path / "store" / "rejects.parquet")
    log = rejects.filter(file="log.csv").sort("line")
    reasons = dict(log.select("line", "reason").rows())
    for k, reason in enumerate(BAD_ROWS.values()):
        assert reasons[first_bad + k] == reason
    assert len(log) == len(BAD_ROWS)  # neither the repeated row nor that of an item not listed
    assert rejects.filter(file="items.csv").select("line", "reason").rows() == [
        (52, "repeats the item; the first is kept"),
        (53, "no item id"),
    ]
    assert dict(log.select("line", "value").rows())[first_bad + 1] == "five"
    assert report.rejected == len(log)
    assert (report.repeats, report.unlisted_items) == (1, 1)
    assert report.rejected_elsewhere == {"items": 2}
    kept = Store(tmp_path / "store").manifest.splits
    assert kept["train"] + kept["valid"] + kept["user_cold"] == 60


def test_too_many_rejects_stop_the_preparation_and_are_kept(tmp_path):
    path = write_log(tmp_path)
    path.write_text(path.read_text() + "u1,i1\n" * 100)
    with pytest.raises(InputError, match=r"100 rows were rejected, more than 0.01 of .*log\.csv"):
        prepare(csv_config(path), tmp_path / "store")
    assert len(pl.read_parquet(tmp_path / "store" / "rejects.parquet")) == 100
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_a_log_of_bad_rows_alone_is_refused_after_one_pass(tmp_path, monkeypatch):
    path = write_log(tmp_path)
    path.write_text(re.sub(r",i1\d*,", ",,", path.read_text()))
    monkeypatch.setattr(scan.ScannedLog, "bucket", lambda *_: pytest.fail("read again"))
    with pytest.raises(
        InputError, match=r"rows were rejected.*the first: log.csv, line \d+: no item"
    ):
        prepare(csv_config(path), tmp_path / "store")
    rejects = pl.read_parquet(tmp_path / "store" / REJECTS)
    assert len(rejects) == pl.read_csv(path)["i"].null_count()
    assert set(rejects["reason"]) == {"no item"}


def test_a_missing_time_matters_only_where_order_is_by_time(tmp_path):
    path = write_log(tmp_path)
    lines = path.read_text().splitlines()
    without = [re.sub(r"\d+$", "", line) if k % 20 == 1 else line for k, line in enumerate(lines)]
    path.write_text("\n".join(without) + "\n")
    num_without = sum(line.endswith(",") for line in without)
    report = prepare(csv_config(path), tmp_path / "store")
    assert (report.rejected, report.kept) == (0, report.read - report.out_of_bounds)
    by_time = csv_config(path, query_by="time", max_rejected_fraction=0.1)
    report = prepare(by_time, tmp_path / "by_time")
    assert report.reasons == {"no time, and data.query_by=time": num_without}
    assert report.rejected == num_without > 50


def test_a_number_may_stand_for_a_missing_value(tmp_path):
    path = write_log(tmp_path)
    with path.open("a") as log:
        log.write("u1,i49,-1,5\nu2,i49,4,-1\n")
    report = prepare(csv_config(path, missing_values=["-1"]), tmp_path / "store")
    assert report.reasons == {"rating is not a number": 1}
    by_time = csv_config(path, missing_values=["-1"], query_by="time")
    report = prepare(by_time, tmp_path / "by_time")
    assert report.reasons == {"rating is not a number": 1, "no time, and data.query_by=time": 1}


@pytest.mark.parametrize("kind", [pl.String, pl.Int64])
def test_buckets_go_by_the_documented_hash_of_the_user(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(scan, "BUCKET_BYTES", 200)
    users = pl.Series("u", [k % 150 - 20 for k in range(600)]).cast(kind)
    frame = pl.DataFrame({"u": users, "i": [f"i{k}" for k in range(600)], "r": 4.0, "t": 1})
    frame.write_parquet(tmp_path / "log.parquet")
    config = DataConfig(source="parquet", path=str(tmp_path / "log.parquet"), columns=COLUMNS)
    source = open_source(config, tmp_path)
    log = scan.scan_log(source, config, Rejects(tmp_path / REJECTS), tmp_path / "buckets")
    assert log.num_buckets > 8
    num_rows = 0
    for k in range(log.num_buckets):
        bucket = log.bucket(k)
        num_rows += len(bucket)
        for user in bucket["user"].unique():
            hashed = (
                plain_draw(plain_hash(user), 0, "bucket")
                if kind == pl.String
                else plain_mix(user % 2**64)
            )
            assert (hashed >> 40) % log.num_buckets == k
    assert num_rows == 600


def test_unrated_rows_are_left_out_and_counted(tmp_path):
    path = write_log(tmp_path)
    path.write_text(path.read_text() + "u1,i49,0,5\nu2,i49,0,5\n")
    report = prepare(csv_config(path, rating_range=[1, 5], unrated_value=0.0), tmp_path / "store")
    assert (report.unrated, report.rejected) == (2, 0)


def test_missing_values_are_nobody_and_no_number(tmp_path):
    path = write_log(tmp_path)
    with path.open("a") as file:
        file.write("NULL,i1,4,1\nu1,nan,4,1\n")
    items = tmp_path / "items.csv"
    price = dict.fromkeys(range(5), "NAN") | {5: "", 6: "Null"}
    rows = [f"i{k},{price.get(k, k)},x|NULL|\n" for k in range(50)]
    items.write_text("i,price,tags\n" + "".join(rows) + "i50,inf,x\n")
    report = prepare(
        csv_config(
            path,
            items_path=str(items),
            item_features={"price": "float", "tags": "token_list"},
            min_value_count=1,
        ),
        tmp_path / "store",
    )
    assert report.reasons == {"no user": 1, "no item": 1, "price is not a number": 1}
    store = Store(tmp_path / "store")
    fields = {f.name: f.num_rows for f in store.manifest.fields}
    assert fields["price"] > 10
    assert fields["tags"] == 2
    row = store.item_features(CHOICE).fields[
        [f.name for f in store.fields("item", CHOICE)].index("price")
    ]
    assert len(set(row.values[:7])) == 1
    is_known = row.offsets[[7, 50]]
    assert row.values[0] not in row.values[slice(*is_known)]
    assert row.values[-1] == row.values[0]  # infinite: not a number, so not known


def test_generated_logs_are_cut_into_buckets_too(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "BUCKET_BYTES", 20_000)
    prepare(DataConfig(users=300), tmp_path / "many")
    monkeypatch.undo()
    prepare(DataConfig(users=300), tmp_path / "one")
    many, one = Store(tmp_path / "many"), Store(tmp_path / "one")
    assert many.manifest.shards["valid"] > one.manifest.shards["valid"] == 1
    for split in one.manifest.splits:
        assert normalised(tasks_of(one, split)) == normalised(tasks_of(many, split))


def test_ratings_from_a_threshold_on_are_clicks(tmp_path):
    path = write_log(tmp_path)
    prepare(csv_config(path, label="click"), tmp_path / "store")
    store = Store(tmp_path / "store")
    log = pl.read_csv(path).rename({"u": "user", "i": "item"})
    rows = rows_of(store, "train").join(log, on=["user", "item"])
    assert len(rows) == len(rows_of(store, "train"))
    assert rows["label"].to_list() == (rows["r"] >= 4).cast(pl.Float32).to_list()
    ratings = store.manifest.ratings
    assert (store.manifest.is_click, ratings.lowest, ratings.highest) == (True, 0.0, 1.0)
