"""Clicks, from ratings or from logs of what was met: preparation, training, evaluation."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from logs import csv_config, write_log

from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.cli import main
from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import FeatureSpec, Store
from greatmeta_dist.errors import InputError
from greatmeta_dist.evaluation.metrics import ranking

CHOICE = FeatureSpec(has_item_id=True, list_pooling="mean")


def rows_of(store: Store, part: str) -> pl.DataFrame:
    """``user role item label`` of a part."""
    found = store.part(part, CHOICE)
    frames = []
    for role in ("support", "query"):
        item, label = (getattr(found.tasks, f"{role}_{w}") for w in ("item", "label"))
        user = np.repeat(found.user, item.lengths)
        tokens = np.array(store.item_tokens())[item.values]
        frames.append(
            pl.DataFrame({"user": user, "item": tokens, "label": label.values, "role": role})
        )
    return pl.concat(frames)


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


@pytest.fixture
def implicit(tmp_path) -> DataConfig:
    log = pl.read_csv(write_log(tmp_path)).drop("r")
    log.write_csv(tmp_path / "met.csv")
    return DataConfig(
        source="csv",
        path=str(tmp_path / "met.csv"),
        columns=ColumnsConfig("u", "i", None, "t"),
        label="click",
        cold_item_fraction=0.2,
        query_items=3,
    )


def test_a_log_without_ratings_gets_items_that_were_not_met(tmp_path, implicit):
    prepare(implicit, tmp_path / "store")
    store = Store(tmp_path / "store")
    met = set(pl.read_csv(implicit.path).select("u", "i").iter_rows())
    cold = set()
    for part in store.manifest.parts:
        rows = rows_of(store, part)
        assert not rows.select("user", "item").is_duplicated().any()
        for user, item, label, _ in rows.iter_rows():
            assert ((user, item) in met) == (label == 1)
        share = (rows["label"] == 0).sum() / (rows["label"] == 1).sum()
        assert 0.2 < share <= 4.0  # fifty items only: many candidates are met, or drawn twice
        if part in ("item_cold", "both_cold"):
            cold |= set(rows.filter(role="query")["item"])
    assert cold
    assert not cold & set(rows_of(store, "train")["item"])


def test_drawn_items_do_not_depend_on_the_buckets(tmp_path, implicit, monkeypatch):
    prepare(implicit, tmp_path / "one")
    monkeypatch.setattr("greatmeta_dist.data.validate.BUCKET_BYTES", 2000)
    prepare(implicit, tmp_path / "many")
    one, many = (rows_of(Store(tmp_path / n), "train") for n in ("one", "many"))
    order = ["user", "role", "item"]
    assert one.sort(order).equals(many.sort(order))


def test_what_is_drawn_for_a_warm_query_is_not_trained_on(tmp_path, implicit):
    prepare(replace(implicit, warm_fraction=0.9, cold_item_fraction=0.0), tmp_path / "store")
    store = Store(tmp_path / "store")
    pairs = {
        part: set(rows_of(store, part).filter(**only).select("user", "item").iter_rows())
        for part, only in (("train", {"label": 0}), ("warm", {"label": 0, "role": "query"}))
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


@pytest.mark.parametrize("click_at, said", [(0.5, "100%"), (6.0, "0%")])
def test_clicks_of_one_kind_are_refused(tmp_path, click_at, said):
    config = csv_config(write_log(tmp_path), label="click", click_at=click_at)
    with pytest.raises(InputError, match=f"{said} of the training rows are clicks"):
        prepare(config, tmp_path / "store")


def test_no_rating_column_needs_clicks():
    with pytest.raises(InputError, match=r"data.columns.rating is null, and data.label is rating"):
        DataConfig(source="csv", path="x", columns=ColumnsConfig("u", "i", None))


def test_chances_are_expected_ones_where_the_model_adds_nothing(tmp_path):
    prepare(csv_config(write_log(tmp_path), label="click"), tmp_path / "store")
    store = Store(tmp_path / "store")
    tasks = store.part("user_cold", CHOICE).tasks
    labels = TargetTransform.of(store, "bias")
    _, expected = labels.expected(tasks, is_training=False)
    found = labels.to_rating(tasks)(np.zeros(len(expected)))
    assert found == pytest.approx(np.clip(expected, 0.02, 0.98))
    assert (labels.to_rating(tasks)(np.ones(len(expected))) > found).all()


@pytest.mark.parametrize("is_implicit", [False, True])
def test_clicks_train_and_are_evaluated_in_the_whole_catalogue(
    tmp_path, capsys, monkeypatch, implicit, is_implicit
):
    config = implicit if is_implicit else csv_config(write_log(tmp_path), label="click")
    prepare(config, tmp_path / "store")
    known = []

    def counted(scores, is_known, *clicked):
        known.append(is_known.sum())
        return ranking(scores, is_known, *clicked)

    monkeypatch.setattr("greatmeta_dist.evaluation.evaluate.ranking", counted)
    run = f"run={tmp_path}/run"
    tiny = ["train.steps=20", "train.users_per_batch=8", "model.hidden=[8]", "train.valid_every=10"]
    assert main(["train", f"store={tmp_path}/store", run, *tiny]) == 0
    assert main(["evaluate", run]) == 0
    out = capsys.readouterr().out
    assert "loss 0." in out
    assert "whole catalogue" in out
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())["scenarios"]
    user_cold = found["user_cold"]
    assert 0 < user_cold["models"]["adapted"]["auc"] < 1
    assert set(user_cold["catalogue"]) == set(user_cold["models"])
    assert all(0 <= v <= 1 for v in user_cold["catalogue"]["adapted"].values())
    assert "hr@10" in user_cold["catalogue"]["adapted"]
    support = rows_of(Store(tmp_path / "store"), "user_cold").filter(role="support")
    met = support.filter(label=1) if is_implicit else support
    assert len(met) in known
    assert is_implicit == (len(support) not in known)
