"""The blend weight is the one that suits the validation users best."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from logs import csv_config, write_log
from scipy.optimize import minimize_scalar
from small_training import small
from threaded_workers import run_workers

from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.evaluation.blend import (
    DEFAULT_WEIGHT,
    WEIGHT_DEVIATION,
    Blend,
    BlendSums,
    fit_blend_weight,
)
from greatmeta_dist.evaluation.scoring import Scorer, score_split
from greatmeta_dist.predict import Predictor
from greatmeta_dist.training.build import build_model
from greatmeta_dist.training.loop import train


@pytest.mark.parametrize("label", ["rating", "click"])
def test_the_weight_is_what_suits_the_validation_users(tmp_path, label):
    prepare(csv_config(write_log(tmp_path, num_users=120), label=label), tmp_path / "store")
    store = Store(tmp_path / "store")
    train(small(store.folder), tmp_path / "run", Display())
    scorer = Predictor.load(tmp_path / "run").scorer

    def penalised(weight: float) -> float:
        """The validation users' squared error, with what is believed of the weight before."""
        scored = score_split(scorer.with_blend_weight(weight), store, "valid")
        error = float(scored.models["adapted"].columns["rmse"]["squared_error"].sum())
        return error + of_model / rows * ((weight - DEFAULT_WEIGHT) / WEIGHT_DEVIATION) ** 2

    scored = score_split(scorer.alone(), store, "valid")
    of_model = float(scored.models["adapted"].columns["rmse"]["squared_error"].sum())
    rows = int(scored.models["adapted"].columns["rmse"]["num_rows"].sum())
    assert 0 < scorer.blend.weight < 1
    assert scorer.blend.weight != DEFAULT_WEIGHT
    best = minimize_scalar(penalised, bounds=(0, 1), method="bounded").x
    assert scorer.blend.weight == pytest.approx(best, abs=1e-3)

    assert scorer.alone().fit_blend_weight(store) == DEFAULT_WEIGHT
    config = small(store.folder)
    config = replace(config, model=replace(config.model, use_bayesian_mf=False))
    train(config, tmp_path / "without", Display())
    assert Predictor.load(tmp_path / "without").scorer.blend.weight == DEFAULT_WEIGHT


@dataclass(frozen=True)
class OffScorer(Scorer):
    """The model's predictions are off by as much, of all rows."""

    off: float = 0.0

    def predict_model(self, tasks):
        return {"adapted": tasks.query_label.values + self.off}


@dataclass(frozen=True)
class OffBlend(Blend):
    """The priors' predictions are off by as much, of the rows they know: every other one."""

    off: float = 0.0

    def predict(self, tasks, *, users=None):
        rating = tasks.query_label.values
        is_known = np.arange(len(rating)) % 2 == 0
        return rating + np.where(is_known, self.off, 1e3), is_known


@pytest.mark.parametrize(("model", "priors", "weight"), [(1.0, 0.5, 1.0), (0.5, 1.0, 0.0)])
def test_the_weight_is_never_less_than_nothing_or_more_than_all(
    predictor, store, model, priors, weight
):
    scorer = predictor.scorer
    blend = OffBlend(**vars(scorer.blend), off=priors)
    off = OffScorer(**{**vars(scorer), "blend": blend}, off=model)
    assert off.fit_blend_weight(Store(store)) == weight
    undefined = replace(off, blend=replace(blend, off=np.nan))
    assert undefined.fit_blend_weight(Store(store)) == DEFAULT_WEIGHT


def test_without_validation_users_the_weight_is_a_half(tmp_path):
    config = csv_config(write_log(tmp_path), valid_fraction=0.0)
    prepare(config, tmp_path / "store")
    train(small(tmp_path / "store"), tmp_path / "run", Display())
    blend = Predictor.load(tmp_path / "run", warn=pytest.fail).scorer.blend
    assert blend.priors
    assert blend.weight == DEFAULT_WEIGHT


def test_the_weight_has_the_same_bits_with_any_number_of_workers(predictor, store, monkeypatch):
    monkeypatch.setattr("greatmeta_dist.evaluation.scoring.USERS_PER_BATCH", 3)
    config, priors = predictor.config, predictor.model.priors

    def fit(communicator):
        model = build_model(config, Store(store), priors, communicator)
        model.worker.broadcast_averaged_params()
        return model.scorer.fit_blend_weight(Store(store))

    weights = {size: run_workers(size, fit) for size in (1, 2, 4)}
    assert 0 < weights[1][0] < 1
    assert all(
        by_rank == [weights[1][0], *[None] * (size - 1)] for size, by_rank in weights.items()
    )


def test_sums_of_batches_are_the_sums_of_all_rows():
    rng = np.random.default_rng(0)
    rating, model, prior = rng.normal(size=(3, 40))
    batches = [BlendSums.of_rows(rating[k::4], model[k::4], prior[k::4]) for k in range(4)]
    together = BlendSums.of_rows(rating, model, prior)
    assert fit_blend_weight(batches) == pytest.approx(fit_blend_weight([together]))
    assert sum(b.count for b in batches) == together.count == 40
    assert fit_blend_weight([]) == DEFAULT_WEIGHT


def test_items_that_the_priors_do_not_know_keep_the_models_rating(predictor, store):
    blend = OffBlend(**{**vars(predictor.scorer.blend), "weight": 0.25}, off=2.0)
    tasks = Store(store).split("user_cold", predictor.feature_spec).tasks
    rating = tasks.query_label.values.astype(np.float64)
    blended = blend.apply(tasks, {"off by 1": rating + 1})["off by 1"]
    assert blended[::2] == pytest.approx(rating[::2] + 1.25)
    assert np.array_equal(blended[1::2], rating[1::2] + 1)
    assert replace(blend, priors=()).apply(tasks, {"a": rating})["a"] is rating
