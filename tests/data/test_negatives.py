"""Items that were not met are drawn for logs of clicks alone."""

from dataclasses import replace

import polars as pl
from stores import rows_of

from greatmeta_dist.data.prepare import prepare
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
