"""The validation users decide which step is best, and are not too many."""

import numpy as np
import pytest
import torch
from logs import csv_config, write_log
from sklearn.metrics import log_loss
from small_training import small

from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.evaluation.metrics.base import PredictedRows
from greatmeta_dist.evaluation.metrics.log_loss import log_loss_of_users
from greatmeta_dist.training import validation
from greatmeta_dist.training.loop import train


def test_a_validation_that_is_not_finite_is_never_the_best(tmp_path, store, monkeypatch):
    score, calls = validation.score_split, []

    def scored(scorer, store, split, **options):
        scores = score(scorer, store, split, **options)
        calls.append(split)
        if split == "valid" and calls.count("valid") == 1:
            scores.models["adapted"].columns["rmse"]["squared_error"][:] = torch.nan
        return scores

    monkeypatch.setattr(validation, "score_split", scored)
    metrics = train(small(store), tmp_path / "run", Display())
    assert metrics["best"]["step"] > 5
    assert metrics["best"]["rmse"] < 2


def test_many_validation_users_are_not_all_scored_while_training(tmp_path, store, monkeypatch):
    score, num_scored = validation.score_split, {}

    def counted(scorer, store, split, **options):
        scores = score(scorer, store, split, **options)
        num_scored[split] = len(scores.group)
        return scores

    monkeypatch.setattr(validation, "score_split", counted)
    monkeypatch.setattr(validation, "MAX_VALID_USERS", 3)
    train(small(store), tmp_path / "run", Display())
    assert Store(store).manifest.splits["valid"] > 6
    assert num_scored["valid"] == 3


def test_large_scenarios_are_not_scored_while_training(tmp_path, store, monkeypatch):
    score, splits = validation.score_split, set()

    def noted(scorer, store, split, **options):
        splits.add(split)
        return score(scorer, store, split, **options)

    monkeypatch.setattr(validation, "score_split", noted)
    monkeypatch.setattr(validation, "MAX_WATCHED_USERS", 0)
    train(small(store), tmp_path / "run", Display())
    assert splits == {"valid"}


def test_the_best_step_of_clicks_is_that_of_the_least_log_loss(tmp_path, monkeypatch):
    prepare(csv_config(write_log(tmp_path), label="click"), tmp_path / "store")
    score, steps = validation.score_split, []

    def scored(scorer, store, split, **options):
        scores = score(scorer, store, split, **options)
        if split == "valid":
            # The second validation has the least log loss, the third one the least RMSE.
            steps.append(len(steps))
            loss, error = {0: (5.0, 5.0), 1: (1.0, 4.0), 2: (2.0, 1.0)}[steps[-1]]
            scores.log_loss["adapted"][:] = loss * scores.num_rows
            scores.models["adapted"].columns["rmse"]["squared_error"][:] = error
        return scores

    monkeypatch.setattr(validation, "score_split", scored)
    metrics = train(small(tmp_path / "store", steps=15), tmp_path / "run", Display())
    assert len(steps) == 3
    assert metrics["best"]["step"] == 10
    assert metrics["best"]["log_loss"] == pytest.approx(1.0)
    assert metrics["valid"]["rmse"] < metrics["best"]["rmse"]


def test_the_best_step_of_ratings_is_that_of_the_least_rmse(tmp_path, store):
    metrics = train(small(store), tmp_path / "run", Display())
    assert "log_loss" not in metrics["best"]


def test_log_loss_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 5, 30)
    click, chance = (rng.random(lengths.sum()) < 0.4) * 1.0, rng.random(lengths.sum())
    rows = PredictedRows(click, chance, lengths, 0.0, True)
    found = log_loss_of_users(rows)
    assert found.sum() / len(click) == pytest.approx(log_loss(click, chance))
    assert (found[lengths == 0] == 0).all()
    certain = PredictedRows(np.array([1.0]), np.array([0.0]), np.array([1]), 0.0, True)
    assert 10 < log_loss_of_users(certain)[0] < 20
