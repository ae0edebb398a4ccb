"""The recipe's splits are what they say, whatever else is in the log."""

import numpy as np
import polars as pl
import pytest
from logs import csv_config, write_log
from stores import items_of, normalised, tasks_of

from greatmeta_dist.data.hashing import uniform_hash
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store


def test_recipe_deals_every_user_once_and_keeps_scenarios_apart(tmp_path):
    path = write_log(tmp_path)
    log = pl.read_csv(path)
    prepare(
        csv_config(path, cold_item_fraction=0.2, query_items=3, warm_fraction=0.3, seed=1),
        tmp_path / "store",
    )
    store = Store(tmp_path / "store")
    splits = {s: tasks_of(store, s) for s in store.manifest.splits}
    assert set(splits) == {"train", "valid", "warm", "user_cold", "item_cold", "both_cold"}
    users = [*splits["train"], *splits["valid"], *splits["user_cold"]]
    assert sorted(users) == sorted(log["u"].unique())
    assert set(splits["warm"]) < set(splits["train"])
    assert set(splits["item_cold"]) <= set(splits["train"])
    assert set(splits["both_cold"]) <= set(splits["user_cold"])

    trained = set().union(*map(items_of, splits["train"].values()))
    for split in ("item_cold", "both_cold"):
        for task in splits[split].values():
            assert not trained & {i for i, _ in task["query"]}
            assert {i for i, _ in task["support"]} & trained
    for split in ("train", "valid", "warm", "user_cold"):
        for user, task in splits[split].items():
            assert len(task["query"]) == 3
            assert not {i for i, _ in task["support"]} & {i for i, _ in task["query"]}
            rated = dict(log.filter(u=user).select("i", "r").rows())
            assert all(rated[i] == r for role in task.values() for i, r in role)
    for user, task in splits["warm"].items():
        assert not {i for i, _ in task["query"]} & items_of(splits["train"][user])


def test_query_by_time_takes_the_latest(tmp_path):
    path = write_log(tmp_path)
    prepare(csv_config(path, query_by="time", query_items=4, warm_fraction=0), tmp_path / "store")
    log = pl.read_csv(path)
    for user, task in tasks_of(Store(tmp_path / "store"), "user_cold").items():
        latest = log.filter(u=user).sort("t", descending=True)["i"][:4]
        assert {i for i, _ in task["query"]} == set(latest)


def test_bounds_on_interactions_and_support(tmp_path):
    path = write_log(tmp_path)
    config = csv_config(
        path, min_interactions=18, max_interactions=25, query_items=5, max_support_items=6
    )
    report = prepare(config, tmp_path / "store")
    counts = pl.read_csv(path).group_by("u").len().filter(pl.col("len").is_between(18, 25))
    tasks = {}
    for split in ("train", "valid", "user_cold"):
        tasks |= tasks_of(Store(tmp_path / "store"), split)
    assert sorted(tasks) == sorted(counts["u"])
    assert all(len(t["support"]) <= 6 and len(t["query"]) == 5 for t in tasks.values())
    assert report.out_of_bounds == report.read - counts["len"].sum()


def test_rows_of_users_with_too_few_for_a_query_are_counted(tmp_path):
    path = write_log(tmp_path)
    report = prepare(csv_config(path, query_items=20), tmp_path / "store")
    lengths = pl.read_csv(path).group_by("u").len()["len"]
    assert report.out_of_bounds == lengths.filter(lengths <= 20).sum() > 0
    assert report.read == report.out_of_bounds + sum(report.interactions.values())


def test_what_else_is_in_a_log_does_not_change_who_is_where(tmp_path):
    path = write_log(tmp_path)
    options = {"cold_item_fraction": 0.2, "query_items": 3, "warm_fraction": 0.3}
    prepare(csv_config(path, **options), tmp_path / "one")
    with path.open("a") as log:  # items that come first in the catalogue
        log.writelines(f"new,a{i},3,0\n" for i in range(30))
    prepare(csv_config(path, **options), tmp_path / "more")
    one, more = Store(tmp_path / "one"), Store(tmp_path / "more")
    assert more.manifest.num_items == one.manifest.num_items + 30
    for split in one.manifest.splits:
        found = normalised(tasks_of(more, split))
        found.pop("new", None)
        assert normalised(tasks_of(one, split)) == found
