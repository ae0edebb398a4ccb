"""A run's predictor: one user's ratings as tasks, what it knows, and what it refuses."""

import re
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from logs import csv_config, write_log
from small_training import prepare_store, small

from greatmeta_dist import predict
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError
from greatmeta_dist.predict import Predictor
from greatmeta_dist.training.loop import train


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return prepare_store(tmp_path_factory.mktemp("predict"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, store) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    train(small(store), run, Display())
    return run


@pytest.fixture
def run(tmp_path, trained) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def test_one_user_is_scored_as_the_same_user_of_a_store(trained, store):
    predictor = Predictor.load(str(trained))
    users = Store(store).split("user_cold", predictor.feature_spec)
    scores = predictor.score_tasks(users.tasks)
    tokens = predictor.catalogue.item_tokens()
    assert tokens == Store(store).item_tokens()
    for user in range(3):
        support = slice(*users.tasks.support_item.offsets[user : user + 2])
        query = slice(*users.tasks.query_item.offsets[user : user + 2])
        known = [tokens[item] for item in users.tasks.support_item.values[support]]
        ratings = dict(zip(known, users.tasks.support_label.values[support].tolist(), strict=True))
        items = [tokens[item] for item in users.tasks.query_item.values[query]]
        scored = predictor.score(ratings, items)
        assert scored == pytest.approx(scores[query], abs=1e-5)


def test_items_that_are_not_in_the_catalogue_count_as_unknown_with_a_warning(trained):
    predictor = Predictor.load(trained)
    with pytest.warns(UserWarning, match="1 of 2 items are of items that .* the first is mine"):
        scores = predictor.score({"i1": 4.0}, ["i2", "mine"])
    assert scores[0] == predictor.score({"i1": 4.0}, ["i2"])[0]
    assert np.isfinite(scores[1])
    with pytest.warns(UserWarning, match="1 of 2 interactions .* the first is mine"):
        recommended = predictor.recommend({"i1": 4.0, "mine": 5.0}, 60)
    assert {item for item, _ in recommended} == {*predictor.catalogue.item_tokens()} - {"i1"}


def test_scores_are_in_the_ratings_range(trained, store):
    predictor = Predictor.load(trained)
    scores = predictor.score({"i1": 5.0, "i2": 1.0}, [f"i{k}" for k in range(50)])
    ratings = Store(store).manifest.ratings
    assert len(scores) == 50
    assert ((scores >= ratings.lowest) & (scores <= ratings.highest)).all()
    assert len(np.unique(scores)) > 40


def test_what_holds_no_run_or_no_checkpoint_is_refused(run, tmp_path):
    with pytest.raises(InputError, match=r"nowhere holds no run .*; run: greatmeta train"):
        Predictor.load(tmp_path / "nowhere")
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match=f"has no checkpoint yet; run greatmeta train run={run}"):
        Predictor.load(run)


def test_by_default_what_is_not_as_it_should_be_is_a_warning(run):
    (run / "model" / "blend.json").unlink()
    with pytest.warns(UserWarning, match="has no blend weight for step"):
        Predictor.load(run)


def test_the_store_of_a_run_is_opened_where_it_lies_now_and_no_other_one(run, store, tmp_path):
    predictor = Predictor.load(run)
    assert predictor.open_store().folder == store
    moved = shutil.copytree(store, tmp_path / "moved")
    assert predictor.open_store(moved).folder == moved
    prepare(csv_config(write_log(tmp_path, num_users=120, seed=1)), tmp_path / "other")
    with pytest.raises(InputError, match="was trained on another store than"):
        predictor.open_store(tmp_path / "other")
    shard = next((moved / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match="does not match its checksum"):
        predictor.open_store(moved)


@pytest.mark.parametrize("rating", [float("nan"), float("inf"), None, "five"])
def test_a_rating_that_is_no_number_is_refused(trained, rating):
    predictor = Predictor.load(trained)
    with pytest.raises(InputError, match="expected a finite number"):
        predictor.score({"i1": rating}, ["i2"])


def test_the_best_items_are_those_of_the_highest_scores_that_the_user_does_not_know(trained):
    predictor = Predictor.load(trained)
    tokens = predictor.catalogue.item_tokens()
    for known in ({}, {"i3": 5.0}, {f"i{k}": 1.0 + k % 5 for k in range(20)}):
        top = predictor.recommend(known, 7)
        scores = dict(zip(tokens, predictor.score(known, tokens), strict=True))
        best = sorted((scores[t] for t in tokens if t not in known), reverse=True)[:7]
        assert [score for _, score in top] == pytest.approx(best, abs=1e-5)
        assert [scores[item] for item, _ in top] == pytest.approx(best, abs=1e-5)


def test_candidates_known_items_and_k_say_what_may_be_recommended(trained):
    predictor = Predictor.load(trained)
    few = predictor.recommend({"i1": 5.0}, 10, candidates=["i1", "i2", "i9"])
    assert {item for item, _ in few} == {"i2", "i9"}
    known = predictor.recommend({"i1": 5.0}, 10, candidates=["i1", "i2"], exclude_seen=False)
    assert {item for item, _ in known} == {"i1", "i2"}
    assert predictor.recommend({"i1": 5.0}, 10, candidates=[]) == []
    everything = predictor.recommend(k=10_000)
    assert len(everything) == len(predictor.catalogue.item_tokens())
    for k in (0, -1, 2.5, "ten", True, None):
        with pytest.raises(InputError, match="expected a whole number from 1 on"):
            predictor.recommend({"i1": 5.0}, k)


def test_users_come_in_plain_types_and_in_frames(trained):
    predictor = Predictor.load(trained)
    ann, bob = {"i1": 5.0, "i2": 1.0}, {"i7": 3.0}
    of_ann, of_bob = predictor.recommend(ann, 3), predictor.recommend(bob, 3)
    assert predictor.recommend([("i1", 5.0), ("i2", 1)], 3) == of_ann
    many = predictor.recommend({"ann": ann, "bob": list(bob.items()), "new": None}, 3)
    assert list(many) == ["ann", "bob", "new"]
    assert [item for item, _ in many["ann"]] == [item for item, _ in of_ann]
    assert [i for i, _ in many["new"]] == [i for i, _ in predictor.recommend(None, 3)]
    columns = {
        "userId": ["ann", "bob", "ann", "ann"],
        "movieId": ["i2", "i7", "i1", "i2"],
        "rating": [4, 3, 5, 1],  # of repeats the last one counts
    }
    for frame in (pl.DataFrame(columns), pa.table(columns)):
        ranked = predictor.recommend(frame, 3)
        assert type(ranked) is type(frame)
        rows = pl.DataFrame(ranked)
        assert rows.columns == ["user", "rank", "item", "score"]
        assert rows["rank"].to_list() == [1, 2, 3, 1, 2, 3]
        assert rows.filter(user="bob")["item"].to_list() == [item for item, _ in of_bob]
        assert rows.filter(user="ann")["item"].to_list() == [item for item, _ in of_ann]
    one = predictor.recommend(pl.DataFrame({"item": ["i1", "i2"], "rating": [5.0, 1.0]}), 3)
    assert one.columns == ["rank", "item", "score"]
    assert one["item"].to_list() == [item for item, _ in of_ann]


@pytest.mark.parametrize(
    "known, message",
    [
        ("i1", "the ratings are 'i1'; expected"),
        (7, "the ratings are 7; expected"),
        ({"i1": "5"}, "the rating of i1 is '5'; expected a finite number"),
        (pl.Series("rating", [4.0]), "the ratings are one column (Series); expected"),
        (["i1", "i2"], "have no ratings, and this run predicts ratings"),
        ({"i1": 9.0}, "the rating of i1 is 9; ratings of this run go from"),
        ({None: 4.0}, "None is no id; expected a text or a whole number"),
        ({1.5: 4.0}, "1.5 is no id"),
        ({float("nan"): 4.0}, "nan is no id"),
        ({"ann": "i1", "bob": ["i2"]}, "the ratings of user 'ann' are 'i1'"),
        (pl.DataFrame({"a": [1]}), "no column of the frame is the item; it has a"),
        (
            pl.DataFrame({"item": ["i1", None], "rating": [4.0, 3.0]}),
            "row 2 of the frame has None in column item",
        ),
        (
            pl.DataFrame({"item": ["i1", "i2"], "rating": [4.0, float("nan")]}),
            "row 2 of the frame has nan in column rating; expected a finite number",
        ),
        (
            pl.DataFrame({"item": ["i1"], "rating": [4.0], "ratings": [3.0]}),
            "columns rating, ratings of the frame may all be the rating",
        ),
        (np.array(["i1", "i2"]), "have no ratings, and this run predicts ratings"),
        ({"i1": pl.Series(["x"] * 9), "i2": 5.0}, "the ratings of user 'i2' are 5.0; expected"),
        ({"i1": np.array(5.0)}, "the rating of i1 is array(5.); expected a finite number"),
        ({"ann": {"i1", "i2"}}, "have no ratings, and this run predicts ratings"),
        (
            {"ann": pl.DataFrame({"item": ["i1"], "rating": [4.0]})},
            "the ratings of user 'ann' are a frame; give one frame of all users",
        ),
        (
            pl.DataFrame({"item": [["i1"]], "rating": [4.0]}),
            "column item of the frame holds List(String); expected one value in each row",
        ),
        (
            pa.Table.from_arrays([pa.array(["i1"])] * 2, names=["item", "item"]),
            "two columns of the frame have the same name; rename one",
        ),
    ],
)
def test_what_is_not_understood_is_one_line(trained, known, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        Predictor.load(trained).recommend(known)
    assert "\n" not in str(caught.value)


def test_an_item_alone_is_no_list_of_items(trained):
    predictor = Predictor.load(trained)
    with pytest.raises(InputError, match="candidates are 'i1'; expected a list of items"):
        predictor.recommend({"i2": 4.0}, candidates="i1")
    with pytest.raises(InputError, match="items are 'i1'; expected a list of items"):
        predictor.score({"i2": 4.0}, "i1")
    frame = pl.DataFrame({"item": ["i1"]})
    with pytest.raises(
        InputError, match=r"items are shape: .*; expected a list of items"
    ) as caught:
        predictor.score({"i2": 4.0}, frame)
    assert "\n" not in str(caught.value)


def test_users_come_in_arrays_decimals_and_lazy_frames(trained):
    predictor = Predictor.load(trained)
    expected = predictor.recommend({"i1": 5.0, "i2": 1.0}, 3)
    pairs = np.array([["i1", 5.0], ["i2", 1.0]], object)
    assert predictor.recommend(pairs, 3) == expected
    assert predictor.recommend({"i1": Decimal("5"), "i2": Decimal("1.0")}, 3) == expected
    many = predictor.recommend({"ann": pairs}, 3)
    assert [item for item, _ in many["ann"]] == [item for item, _ in expected]
    frame = pl.DataFrame({"item": ["i1", "i2"], "rating": [5.0, 1.0]})
    lazy = predictor.recommend(frame.lazy(), 3)
    assert lazy.equals(predictor.recommend(frame, 3))


def test_arguments_of_another_type_are_one_line(trained):
    predictor = Predictor.load(trained)
    with pytest.raises(InputError, match="exclude_seen is 'no'; expected True or False"):
        predictor.recommend({"i1": 4.0}, exclude_seen="no")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"user_features are 31; .*expected {user") as caught:
        predictor.recommend({"ann": {"i1": 4.0}}, user_features=31)
    assert "\n" not in str(caught.value)
    clicks = pl.DataFrame({"item": ["i1", "i2"], "rating": [True, False]})
    with pytest.raises(InputError, match="column rating of the frame holds Booleans"):
        predictor.recommend(clicks)


def test_a_warning_of_unknown_items_names_the_callers_line(trained):
    predictor = Predictor.load(trained)
    with pytest.warns(UserWarning, match="1 of 1 interactions are of items") as caught:
        predictor.recommend({"new": 4.0}, 3)
    assert caught[0].filename == __file__


def test_a_frame_without_rows_has_no_users(trained):
    frame = pl.DataFrame({"user": ["ann"], "item": ["i1"], "rating": [4.0]})
    ranked = Predictor.load(trained).recommend(frame.clear())
    assert ranked.columns == ["user", "rank", "item", "score"]
    assert not len(ranked)
    assert Predictor.load(trained).score(frame.clear(), ["i1", "i2"]).shape == (0, 2)


def test_a_frame_whose_users_are_not_found_is_one_user_with_a_warning(trained):
    predictor = Predictor.load(trained)
    frame = pl.DataFrame({"item": ["i1", "i2"], "rating": [4.0, 3.0], "timestamp": [1, 2]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "user" not in predictor.recommend(frame, 3).columns
    with pytest.warns(
        UserWarning, match="all rows count as one user's; if one of who is"
    ) as caught:
        predictor.recommend(frame.with_columns(who=pl.lit("ann")), 3)
    assert caught[0].filename == __file__


def test_features_of_users_are_told_by_their_values(tmp_path):
    users = tmp_path / "users.csv"
    people = [f"u{k},{20 + k % 40},c{k % 3}" for k in range(120)]
    users.write_text("\n".join(["u,age,country", *people]))
    config = csv_config(
        write_log(tmp_path, num_users=120),
        users_path=str(users),
        user_features={"age": "float", "country": "token"},
        min_value_count=2,
    )
    prepare(config, tmp_path / "store")
    train(small(tmp_path / "store"), tmp_path / "run", Display())
    predictor = Predictor.load(tmp_path / "run")
    store = predictor.open_store()
    batch = store.shard("user_cold", 0)
    scores = predictor.score_tasks(store.tasks_of(batch, predictor.feature_spec).tasks)
    tokens, start = predictor.catalogue.item_tokens(), 0
    for row in batch.to_pylist():
        known = [tokens[item] for item in row["support_item"]]
        number = int(row["user"][1:])
        features = {"age": 20 + number % 40, "country": f"c{number % 3}"}
        asked = [tokens[item] for item in row["query_item"]]
        ratings = list(zip(known, row["support_rating"], strict=True))
        scored = predictor.score(ratings, asked, user_features=features)
        assert scored == pytest.approx(scores[start : start + len(asked)], abs=1e-5)
        start += len(asked)
    unknown = predictor.score({"i1": 5.0}, ["i2"])
    assert predictor.score({"i1": 5.0}, ["i2"], user_features={"age": 21}) != unknown
    with pytest.warns(UserWarning, match="1 values of user features .* first is country c99"):
        assert predictor.score({"i1": 5.0}, ["i2"], user_features={"country": "c99"}) == unknown
    for missing in ({"age": float("nan")}, {"country": float("nan")}, {"age": None}):
        assert predictor.score({"i1": 5.0}, ["i2"], user_features=missing) == unknown
    many = predictor.recommend({"a": {"i1": 5.0}}, user_features={"a": {"age": 21.0}})
    alone = predictor.recommend({"i1": 5.0}, user_features={"age": 21.0})
    assert [item for item, _ in many["a"]] == [item for item, _ in alone]
    _check_frames_of_features(predictor)
    for features, message in (
        ({"height": 2}, "no user feature is called height; this run has age, country"),
        ({"age": "old"}, "age is 'old'; expected a finite number"),
        ("age", "user_features are 'age'; expected {feature: value}"),
    ):
        with pytest.raises(InputError, match=message):
            predictor.recommend({"i1": 5.0}, user_features=features)


def _check_frames_of_features(predictor: Predictor) -> None:
    """Users' features in a frame count as in plain types."""
    known = {7: {"i1": 5.0}, "b": {"i1": 5.0}, "c": {"i1": 5.0}}
    plain = {7: {"age": 21.0, "country": "c1"}, "b": {"age": 40.0}}
    expected = predictor.score(known, ["i2", "i3"], user_features=plain)
    columns = {"userId": ["b", "7"], "age": [40.0, 21.0], "country": [None, "c1"]}
    for frame in (pl.DataFrame(columns), pl.DataFrame(columns).lazy(), pa.table(columns)):
        scores = predictor.score(known, ["i2", "i3"], user_features=frame)
        assert (scores == expected).all()
    assert expected[2, 0] != expected[0, 0]
    twice = pl.DataFrame({"user": ["b", "b"], "age": [40.0, 41.0]})
    with pytest.raises(InputError, match="user_features name b more than once"):
        predictor.score(known, ["i2"], user_features=twice)
    with pytest.raises(InputError, match=r"of one user without a name; give \{feature: value\}"):
        predictor.score({"i1": 5.0}, ["i2"], user_features=twice)


def test_threads_share_a_predictor(trained):
    predictor = Predictor.load(trained)
    users = [{f"i{k}": 1.0 + k % 5, f"i{k + 20}": 3.0} for k in range(20)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(predictor.recommend, users))
    assert together == [predictor.recommend(user) for user in users]


def test_a_best_checkpoint_that_a_training_replaces_meanwhile_is_not_called_damaged(
    trained, monkeypatch
):
    find, calls = predict._newest_and_best, []

    def overtaken(run, warn):
        newest, best = find(run, warn)
        calls.append(newest.step)
        # At first as a moment ago: an older newest one, whose best is deleted by now.
        return (replace(newest, step=newest.step - 1), None) if len(calls) == 1 else (newest, best)

    expected = Predictor.load(trained).step
    monkeypatch.setattr(predict, "_newest_and_best", overtaken)
    assert Predictor.load(trained, warn=pytest.fail).step == expected
    assert len(calls) == 2
