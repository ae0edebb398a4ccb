"""Items that were not met are drawn for logs of clicks alone."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from stores import rows_of

from benchmarks.fuzz.plain import Interaction, draw_negatives, is_cold, split_user
from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.hashing import hash_tokens
from greatmeta_dist.data.negatives import add_negatives
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.recipe import split_by_recipe
from greatmeta_dist.data.split import SPLITS, Catalogue, History, held_out_items
from greatmeta_dist.data.store import Store


def test_a_log_without_ratings_gets_items_that_were_not_met(tmp_path, implicit):
    prepare(implicit, tmp_path / "store")
    store = Store(tmp_path / "store")
    met = set(pl.read_csv(implicit.path).select("u", "i").iter_rows())
    cold = set()
    for split in store.manifest.splits:
        rows = rows_of(store, split)
        assert not rows.select("user", "item").is_duplicated().any()
        for user, item, label, _ in rows.iter_rows():
            assert ((user, item) in met) == (label == 1)
        share = (rows["label"] == 0).sum() / (rows["label"] == 1).sum()
        assert 0.2 < share <= 4.0  # fifty items only: many candidates are met, or drawn twice
        if split in ("item_cold", "both_cold"):
            cold |= set(rows.filter(role="query")["item"])
    assert cold
    assert not cold & set(rows_of(store, "train")["item"])


def test_drawn_items_do_not_depend_on_the_buckets(tmp_path, implicit, monkeypatch):
    prepare(implicit, tmp_path / "one")
    monkeypatch.setattr("greatmeta_dist.data.scan.BUCKET_BYTES", 2000)
    prepare(implicit, tmp_path / "many")
    one, many = (rows_of(Store(tmp_path / n), "train") for n in ("one", "many"))
    order = ["user", "role", "item"]
    assert one.sort(order).equals(many.sort(order))


def test_what_is_drawn_for_a_warm_query_is_not_trained_on(tmp_path, implicit):
    prepare(replace(implicit, warm_fraction=0.9, cold_item_fraction=0.0), tmp_path / "store")
    store = Store(tmp_path / "store")
    pairs = {
        split: set(rows_of(store, split).filter(**only).select("user", "item").iter_rows())
        for split, only in (("train", {"label": 0}), ("warm", {"label": 0, "role": "query"}))
    }
    assert pairs["warm"]
    assert not pairs["warm"] & pairs["train"]


def test_items_are_drawn_by_the_given_split(tmp_path, implicit):
    met = pl.read_csv(implicit.path)
    number = pl.col("i").str.slice(1).cast(pl.Int64)
    is_train = pl.col("u").str.slice(1).cast(pl.Int64) < 40
    rank = pl.int_range(pl.len()).over("u")
    rows = met.with_columns(
        part=pl.when(is_train).then(pl.lit("train")).otherwise(pl.lit("both_cold")),
        is_cold=number >= 40,
        rank=rank,
    ).filter(~(is_train & pl.col("is_cold")))
    is_query = pl.when(is_train).then(pl.col("rank") < 3).otherwise(pl.col("is_cold"))
    rows = rows.with_columns(
        role=pl.when(is_query).then(pl.lit("query")).otherwise(pl.lit("support"))
    )
    split = rows.select("part", user_id="u", role="role", item_id="i")
    split.write_csv(tmp_path / "split.tsv", separator="\t")
    prepare(replace(implicit, split=str(tmp_path / "split.tsv")), tmp_path / "store")
    store = Store(tmp_path / "store")
    cold = {f"i{k}" for k in range(40, 50)}
    asked = rows_of(store, "both_cold").filter(role="query", label=0)
    assert len(asked)
    assert set(asked["item"]) <= cold
    assert not set(rows_of(store, "train")["item"]) & cold


def random_history(*, seed: int) -> tuple[History, Catalogue, DataConfig]:
    """Clicks of users on a third of the items, and the catalogue."""
    rng = np.random.default_rng(seed)
    users = pl.Series([f"u{k}" for k in range(50)])
    items = pl.Series([f"i{k}" for k in range(60)])
    rows = [(u, i) for u in range(50) for i in rng.choice(60, rng.integers(8, 25), replace=False)]
    user, item = np.array(rows).T
    config = DataConfig(
        label="click",
        click_at=None,
        seed=seed,
        query_items=3,
        cold_item_fraction=0.3,
        warm_fraction=0.6,
        min_interactions=5,
        negatives=1 + seed,
    )
    history = History(
        users,
        hash_tokens(users),
        user,
        item.astype(np.int32),
        np.ones(len(rows)),
        None,
        np.bincount(user),
    )
    return history, Catalogue(items, hash_tokens(items), held_out_items(items, config)), config


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_drawn_items_are_those_of_a_plain_loop(seed):
    history, catalogue, config = random_history(seed=seed)
    tasks = split_by_recipe(history, catalogue, config)
    found: dict = {}
    for split, rows in add_negatives(tasks.splits, tasks.history, catalogue, config).items():
        assert (np.diff(rows.user) >= 0).all()
        for u, i, label, is_query in zip(
            rows.user.tolist(), rows.item.tolist(), rows.rating, rows.is_query, strict=True
        ):
            roles = found.setdefault((split, history.token[u]), {"support": [], "query": []})
            roles["query" if is_query else "support"].append((catalogue.token[i], label))
    pools = {
        cold: [i for i in catalogue.token if is_cold(i, config) == cold] for cold in (True, False)
    }
    expected: dict = {}
    num_drawn = 0
    for u, user in enumerate(history.token):
        met = [catalogue.token[int(i)] for i in history.item[history.user == u]]
        plain = split_user(user, [Interaction(i, 1.0, None) for i in met], config)
        drawn = draw_negatives(user, plain, set(met), pools, config)
        for split, task in plain.items():
            expected[split, user] = {
                role: [(i, 1.0) for i in items] + [(i, 0.0) for i in drawn[split][role]]
                for role, items in task.items()
            }
            num_drawn += sum(map(len, drawn[split].values()))
    assert {split for split, _ in expected} == {*SPLITS}
    assert found == expected
    assert num_drawn > 300
