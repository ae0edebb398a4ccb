"""Preparation as a whole: nothing is lost, nothing made twice, and the store is what it says."""

import json

import numpy as np
import pytest
from logs import csv_config, write_log
from stores import CHOICE, normalised, tasks_of

from greatmeta_dist.config import ColumnsConfig
from greatmeta_dist.data import scan
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import InputError


def test_every_row_read_is_in_a_task_or_accounted_for(tmp_path):
    path = write_log(tmp_path)
    with path.open("a") as log:
        log.write("u1,i1,five,0\nlone,i1,5,0\n")
    config = csv_config(path, cold_item_fraction=0.3, query_items=2, max_support=9)
    report = prepare(config, tmp_path / "store")
    store = Store(tmp_path / "store")
    used = {
        (user, item)
        for part in store.manifest.splits
        for user, task in tasks_of(store, part).items()
        for rows in task.values()
        for item, _ in rows
    }
    assert report.rejected == 1
    assert min(report.out_of_bounds, report.unused) > 0
    left_out = report.rejected + report.out_of_bounds + report.unused
    assert report.read == left_out + len(used)
    assert report.kept == len(used)


def test_a_changed_row_amid_a_large_log_is_noticed(tmp_path):
    path = write_log(tmp_path)
    header, rows = path.read_text().split("\n", 1)
    ballast = "".join(f"v{k},i1,3,{k:09}\n" for k in range(120_000))
    path.write_text(f"{header}\n{ballast}{rows}")
    prepare(csv_config(path), tmp_path / "store")
    assert not prepare(csv_config(path), tmp_path / "store").is_new
    text = path.read_text()
    path.write_text(text.replace("v60000,i1,3,", "v60000,i1,4,"))
    with pytest.raises(InputError, match="the source files"):
        prepare(csv_config(path), tmp_path / "store")


def test_number_of_buckets_does_not_change_who_is_where(tmp_path, monkeypatch):
    path = write_log(tmp_path)
    prepare(csv_config(path), tmp_path / "one")
    monkeypatch.setattr(scan, "BUCKET_BYTES", 2000)
    prepare(csv_config(path), tmp_path / "many")
    one, many = Store(tmp_path / "one"), Store(tmp_path / "many")
    assert many.manifest.shards["train"] > one.manifest.shards["train"]
    for part in one.manifest.splits:
        assert normalised(tasks_of(one, part)) == normalised(tasks_of(many, part))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b"u,i,r,t\n", "holds no interaction"),
        (b"u,i,r,t\na,b,1,1\n", "no training task came out of 1 usable rows"),
        (b"\n", "expected a line of column names"),
    ],
)
def test_empty_input_says_so(tmp_path, content, message):
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        prepare(csv_config(path), tmp_path / "store")


def test_preparing_again_does_nothing_and_another_way_is_refused(tmp_path):
    path = write_log(tmp_path)
    assert prepare(csv_config(path), tmp_path / "store").is_new
    before = (tmp_path / "store" / "manifest.json").stat().st_mtime_ns
    again = prepare(csv_config(path), tmp_path / "store")
    assert not again.is_new
    assert (tmp_path / "store" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"prepared differently \(data.query_items\)"):
        prepare(csv_config(path, query_items=5), tmp_path / "store")
    path.write_text(path.read_text() + "u1,i49,5,1\n")
    with pytest.raises(InputError, match="the source files"):
        prepare(csv_config(path), tmp_path / "store")


def test_one_name_for_features_of_both_sides_is_refused(tmp_path):
    path = write_log(tmp_path)
    for name, key in (("users", "u"), ("items", "i")):
        (tmp_path / f"{name}.csv").write_text(
            f"{key},kind\n" + "".join(f"{key}{k},a\n" for k in range(60))
        )
    config = csv_config(
        path,
        users_path=str(tmp_path / "users.csv"),
        items_path=str(tmp_path / "items.csv"),
        user_features={"kind": "token"},
        item_features={"kind": "token"},
    )
    with pytest.raises(InputError, match="kind is a feature of users and of items; rename"):
        prepare(config, tmp_path / "store")


def test_statistics_are_of_training_users_only(tmp_path):
    prepare(csv_config(write_log(tmp_path)), tmp_path / "store")
    store = Store(tmp_path / "store")
    ratings: dict[str, list[float]] = {}
    for task in tasks_of(store, "train").values():
        for item, rating in task["support"] + task["query"]:
            ratings.setdefault(item, []).append(rating)
    statistics = store.training_rows()
    assert len(statistics.item_count) == len(store.item_tokens())
    for k, token in enumerate(store.item_tokens()):
        rated = ratings.get(token, [])
        assert (statistics.item_count[k], statistics.item_sum[k]) == (len(rated), sum(rated))
        assert statistics.item_squares[k] == sum(r**2 for r in rated)
    flat = [r for rs in ratings.values() for r in rs]
    assert store.manifest.ratings.mean == pytest.approx(np.mean(flat))
    assert store.manifest.ratings.deviation == pytest.approx(np.std(flat))


def test_damaged_store_is_refused(tmp_path):
    prepare(csv_config(write_log(tmp_path)), tmp_path / "store")
    shard = next((tmp_path / "store" / "shards").glob("train-*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    store = Store(tmp_path / "store")
    store.split("valid", CHOICE)
    with pytest.raises(InputError, match="does not match its checksum"):
        store.split("train", CHOICE)
    with pytest.raises(InputError, match="does not match its checksum"):
        store.check()
    shard.write_bytes(data[:100])
    with pytest.raises(InputError, match="does not match its checksum"):
        _ = store.train_sizes
    shard.unlink()
    with pytest.raises(InputError, match=r"is missing; delete .* and prepare"):
        Store(tmp_path / "store")
    manifest = tmp_path / "store" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 99}))
    with pytest.raises(InputError, match="format version 99"):
        Store(tmp_path / "store")


def test_a_store_that_lost_a_file_is_not_taken_as_ready(tmp_path):
    config = csv_config(write_log(tmp_path))
    prepare(config, tmp_path / "store")
    (tmp_path / "store" / "report.json").unlink()
    with pytest.raises(InputError, match=r"is missing; delete .* and prepare"):
        prepare(config, tmp_path / "store")


def test_time_order_needs_times(tmp_path):
    config = csv_config(write_log(tmp_path), query_by="time")
    config.columns = ColumnsConfig("u", "i", "r", None)
    with pytest.raises(InputError, match=r"needs times, .* set data.columns.timestamp"):
        prepare(config, tmp_path / "store")
