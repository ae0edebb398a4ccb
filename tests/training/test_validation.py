"""The validation users decide which step is best, and are not too many."""

import torch
from small_training import small

from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
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
