"""``Predictor.with_items``: items that training did not have, their features and ratings."""

import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from logs import csv_config, write_log
from small_training import small

from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data.known_ratings import known_ratings
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError
from greatmeta_dist.predict import Predictor
from greatmeta_dist.recommend.new_items import ItemEncoder
from greatmeta_dist.training.loop import train


def features_of(item: int) -> dict:
    """What the catalogue knows of an item."""
    return {"kind": [f"c{item % 5}", f"d{item % 3}"], "year": 1950 + item, "maker": f"m{item % 4}"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run on a log whose items are the better the later their year; a tenth are held out."""
    folder = tmp_path_factory.mktemp("new items")
    rng = np.random.default_rng(0)
    lines = ["u,i,r,t"]
    for user in range(120):
        items = rng.choice(80, 20, replace=False)
        rating = np.clip(1.5 + items / 30 + rng.normal(0, 0.5, 20) + rng.normal(0, 0.3), 1, 5)
        lines += [f"u{user},i{i},{r:.2f},0" for i, r in zip(items, rating, strict=True)]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    rows = [
        f"i{k},{'|'.join(f['kind'])},{f['year']},{f['maker']}"
        for k in range(80)
        for f in [features_of(k)]
    ]
    (folder / "items.csv").write_text("\n".join(["i,kind,year,maker", *rows]) + "\n")
    prepare(
        csv_config(
            folder / "log.csv",
            items_path=str(folder / "items.csv"),
            item_features={"kind": "token_list", "year": "float", "maker": "token"},
            cold_item_fraction=0.2,
            min_value_count=2,
        ),
        folder / "store",
    )
    train(small(folder / "store"), folder / "run", Display())
    return folder / "run"


@pytest.fixture(scope="module")
def predictor(run) -> Predictor:
    return Predictor.load(run)


@pytest.fixture(scope="module")
def held_out(predictor) -> list[str]:
    """Items of the catalogue that training had no ratings of."""
    count = predictor.model.priors["bias"].model.item_count
    items = [t for t, n in zip(predictor.catalogue.item_tokens(), count, strict=True) if n == 0]
    assert len(items) > 5
    return items


ANN = {"i1": 2.0, "i3": 4.5, "i7": 3.0}


def raters(item: str, rating: float, count: int) -> dict:
    return {
        f"r{k}": {f"i{(7 * k + j) % 80}": 3.0 for j in range(5)} | {item: rating}
        for k in range(count)
    }


def test_features_alone_predict_as_they_would_have_in_training(predictor, held_out):
    items = {f"new {t}": features_of(int(t[1:])) for t in held_out}
    knowing = predictor.with_items(items)
    encoded = ItemEncoder(predictor.catalogue, predictor.feature_spec).encode(list(items.values()))
    bias = predictor.model.priors["bias"]
    index = [predictor.catalogue.item_tokens().index(t) for t in held_out]
    assert np.array_equal(bias.content.predict(encoded.features), bias.model.content_mean[index])
    assert len(np.unique(bias.model.content_mean[index])) > 3
    of_old, of_new = (
        np.array([knowing.score(ANN, [t])[0] for t in ts]) for ts in (held_out, items)
    )
    assert np.array_equal(of_old, of_new)


def test_items_without_ratings_change_nothing_else(predictor, held_out):
    knowing = predictor.with_items({"zz": features_of(40)}, {"bob": {"i1": 4.0, "i2": 2.0}})
    items = predictor.catalogue.item_tokens()
    assert np.array_equal(predictor.score(ANN, items), knowing.score(ANN, items))
    assert predictor.recommend(ANN, 5) == knowing.recommend(ANN, 5, candidates=items)


def test_anybodys_ratings_of_an_item_move_it_for_everybody(predictor, held_out):
    item = held_out[0]
    before = predictor.score(ANN, [item])[0]
    gained = [
        predictor.with_items(None, raters(item, 5.0, count)).score(ANN, [item])[0] - before
        for count in (1, 4, 16)
    ]
    assert 0.05 < gained[0] < gained[1] < gained[2]
    assert predictor.with_items(None, raters(item, 1.0, 8)).score(ANN, [item])[0] < before - 0.3
    assert predictor.score(ANN, [item])[0] == before  # the predictor itself stays


def test_new_items_are_recommended_and_scored_as_they_are_ranked(predictor):
    knowing = predictor.with_items({"zz": features_of(60), "yy": {}}, raters("zz", 5.0, 12))
    best = knowing.recommend(ANN, 90)
    assert {"zz", "yy"} < {one.item for one in best}
    assert len(best) == 82 - len(ANN)
    assert best[0].item == "zz"
    scores = knowing.score(ANN, [one.item for one in best])
    assert [one.score for one in best] == pytest.approx(scores.tolist(), abs=1e-5)
    assert "zz" not in {one.item for one in knowing.recommend({**ANN, "zz": 5.0}, 90)}


def test_twice_in_a_row_adds_up_as_does_batch_by_batch(predictor, held_out):
    first, second = raters("zz", 4.0, 5), {f"s{k}": v for k, v in raters("zz", 2.0, 3).items()}
    items = {"zz": features_of(50)}
    once = predictor.with_items(items, {**first, **second})
    twice = predictor.with_items(items, first).with_items(None, second)
    left, right = predictor.new_item_evidence(), predictor.new_item_evidence()
    for user, ratings in {**second, **first}.items():
        part = known_ratings({user: ratings})
        left, right = (left.add(part), right) if user[0] == "r" else (left, right.add(part))
    streamed = predictor.with_item_evidence(right + left, items)
    assert (right + left).sums.of(np.array(["zz"])).count == 8
    assert (right + left).num_ratings == once.evidence.num_ratings > 8  # held-out items, too
    asked = ["zz", held_out[0], "i1"]
    assert np.array_equal(once.score(ANN, asked), twice.score(ANN, asked))
    assert np.array_equal(once.score(ANN, asked), streamed.score(ANN, asked))


def test_items_come_as_mappings_frames_or_ids(predictor):
    rows = {"item": ["zz", "yy"], "year": [1990, 1960], "maker": ["m1", None]}
    lists = pl.DataFrame({**rows, "kind": [["c1", "d2"], ["c3"]]})
    known = raters("zz", 5.0, 4)
    mapping = {
        "zz": {"year": 1990, "maker": "m1", "kind": ["c1", "d2"]},
        "yy": {"year": 1960, "kind": ["c3"]},
    }
    expected = predictor.with_items(mapping, known).score(ANN, ["zz", "yy"])
    for items in (lists, lists.to_pandas(), lists.to_arrow()):
        assert np.array_equal(predictor.with_items(items, known).score(ANN, ["zz", "yy"]), expected)
    frame = pd.DataFrame(
        [(u, i, r) for u, pairs in known.items() for i, r in pairs.items()],
        columns=["user", "item", "rating"],
    )
    assert np.array_equal(predictor.with_items(mapping, frame).score(ANN, ["zz", "yy"]), expected)
    by_id = predictor.with_items(["zz", "yy"], known)
    assert np.array_equal(
        by_id.score(ANN, ["zz"]), predictor.with_items(None, known).score(ANN, ["zz"])
    )
    assert by_id.score(ANN, ["zz"]) != expected[0]


def test_catalogue_items_keep_their_features(predictor, held_out):
    knowing = predictor.with_items({held_out[0]: {"year": 2020}})
    assert np.array_equal(knowing.score(ANN, held_out), predictor.score(ANN, held_out))


def test_ratings_of_items_that_nobody_names_are_told(predictor):
    with pytest.warns(UserWarning, match="ratings of 1 items that neither the catalogue nor"):
        predictor.with_items(["zz"], {"ann": {"yy": 3.0, "zz": 4.0, "i1": 3.0}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor.with_items(["zz"], {"ann": {"zz": 4.0, "i1": 3.0}})


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("zz", "the items are 'zz'; expected {item: {feature: value}}, ids, or a frame"),
        (7, "the items are 7; expected"),
        ({"zz": 3}, "the features of item zz are 3; expected {feature: value}"),
        (
            {"zz": {"colour": "red"}},
            "no item feature is called colour; this run has kind, maker, year",
        ),
        ({"zz": {"maker": ["a", "b"]}}, "maker is ['a', 'b']; it has one value for each item"),
        ({"zz": {"year": "long ago"}}, "year is 'long ago'; expected a finite number"),
        ([3.5], "3.5 is no id; expected a text or a whole number"),
        (
            pl.DataFrame({"x": ["a"]}),
            "no column of the frame is the item; it has x; rename one item",
        ),
        (
            pl.DataFrame({"item": ["a", "a"]}),
            "the items name a more than once; give each item once",
        ),
    ],
)
def test_bad_items_are_refused_in_one_line(predictor, items, message):
    with pytest.raises(InputError, match=re.escape(message)):
        predictor.with_items(items)


def test_a_rating_out_of_range_is_refused(predictor):
    with pytest.raises(InputError, match="the rating of zz is 9; ratings of this run go from"):
        predictor.with_items(None, {"ann": {"zz": 9.0, "i1": 3.0}})


def test_clicks_of_a_new_item_count_beside_the_rows_that_would_have_been_drawn(tmp_path):
    log = pl.read_csv(write_log(tmp_path)).drop("r")
    log.write_csv(tmp_path / "met.csv")
    config = DataConfig(
        source="csv",
        path=str(tmp_path / "met.csv"),
        columns=ColumnsConfig("u", "i", None, "t"),
        label="click",
        negatives=4,
    )
    prepare(config, tmp_path / "store")
    train(small(tmp_path / "store"), tmp_path / "run", Display())
    predictor = Predictor.load(tmp_path / "run")
    rng = np.random.default_rng(0)
    clicks = {
        f"r{k}": [*(f"i{i}" for i in rng.choice(50, 9, replace=False)), "often"] for k in range(60)
    }
    for k in range(3):
        clicks[f"r{k}"].append("rarely")
    knowing = predictor.with_items(["often", "rarely", "never"], clicks)
    assert knowing.evidence.unclicked == pytest.approx(4 * (60 * 10 + 3) / 50)
    often, rarely, never = knowing.score(["i1", "i2"], ["often", "rarely", "never"])
    assert often > never > rarely
    alone = predictor.with_items(["often", "rarely", "never"])
    assert never == alone.score(["i1", "i2"], ["often", "rarely", "never"])[2]
