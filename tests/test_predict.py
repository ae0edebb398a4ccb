"""A run's predictor: one user's ratings as tasks, what it knows, and what it refuses."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
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
    scores = predictor.score(users.tasks)
    tokens = predictor.catalogue.item_tokens()
    assert tokens == Store(store).item_tokens()
    for user in range(3):
        support = slice(*users.tasks.support_item.offsets[user : user + 2])
        query = slice(*users.tasks.query_item.offsets[user : user + 2])
        known = [tokens[item] for item in users.tasks.support_item.values[support]]
        ratings = dict(zip(known, users.tasks.support_label.values[support].tolist(), strict=True))
        items = [tokens[item] for item in users.tasks.query_item.values[query]]
        scored = predictor.score(predictor.one_user(ratings, items))
        assert scored == pytest.approx(scores[query], abs=1e-5)


def test_an_item_that_is_not_in_the_catalogue_is_refused(trained):
    predictor = Predictor.load(trained)
    for ratings, items in (({"i1": 4.0}, ["i2", "mine"]), ({"mine": 4.0}, ["i2"])):
        with pytest.raises(InputError, match="does not know item mine"):
            predictor.one_user(ratings, items)


def test_scores_are_in_the_ratings_range(trained, store):
    predictor = Predictor.load(trained)
    scores = predictor.score(
        predictor.one_user({"i1": 5.0, "i2": 1.0}, [f"i{k}" for k in range(50)])
    )
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
        predictor.one_user({"i1": rating}, ["i2"])


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
