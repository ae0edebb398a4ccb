"""The factorisation as a prior: averaged, saved, and blended with the model."""

from dataclasses import replace

import numpy as np
import pytest
from fitted import fit_all, transform_of
from logs import csv_config, write_log
from low_rank import as_sparse, low_rank_log
from stores import CHOICE

from greatmeta_dist.config import Config, ModelConfig
from greatmeta_dist.config.priors import BayesianMFConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.evaluation.blend import Blend
from greatmeta_dist.priors.bayesian_mf import BayesianMFPrior
from greatmeta_dist.priors.bayesian_mf_fit import factorise
from greatmeta_dist.priors.fit import rating_priors
from greatmeta_dist.ragged import Ragged
from greatmeta_dist.training.build import build_model

OPTIONS = BayesianMFConfig()


def test_starts_are_averaged():
    value, is_given = low_rank_log(num_users=60)
    whole = as_sparse(value, is_given)
    starts = [
        factorise(lambda: [whole], np.arange(40), options=OPTIONS, seed=(0, k)) for k in range(3)
    ]
    support, query = (
        Ragged(np.array([4, 1]), np.array([0, 2])),
        Ragged(np.array([0, 3, 50]), np.array([0, 3])),
    )
    residual = np.array([1.0, -0.5])
    predicted, is_known = BayesianMFPrior(starts).predict_residual(support, residual, query)
    alone = [start.predict_residual(support, residual, query)[0] for start in starts]
    assert is_known.tolist() == [True, True, False]
    assert predicted[:2] == pytest.approx(np.mean(alone, axis=0)[:2])


def test_what_is_loaded_is_what_was_saved():
    value, is_given = low_rank_log()
    whole = as_sparse(value, is_given)
    made = [
        factorise(lambda: [whole], np.arange(40), options=OPTIONS, seed=(0, k)) for k in range(2)
    ]
    loaded = BayesianMFPrior.from_state(*BayesianMFPrior(made).state(), fitted={}).starts
    for one, other in zip(made, loaded, strict=True):
        for name in ("item", "mean", "variance", "with_offset", "noise"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("weight", "mean", "precision"):
            assert np.array_equal(getattr(one.users, name), getattr(other.users, name))


def blended(blend: Blend, tasks: TaskTable, rating):
    return blend.apply(tasks, {"model": rating})["model"]


@pytest.mark.parametrize("label", ["rating", "click"])
def test_predictions_are_of_both_but_of_unknown_items_the_models(tmp_path, label):
    prepare(csv_config(write_log(tmp_path), label=label), tmp_path / "store")
    store = Store(tmp_path / "store")
    priors = fit_all(store)
    tasks = store.split("user_cold", CHOICE).tasks
    transform = transform_of(store, priors)
    plain = Blend(rating_priors(priors, use_bayesian_mf=False), transform)
    assert plain.priors == []
    both = Blend(rating_priors(priors, use_bayesian_mf=True), transform)
    (prior,) = both.priors
    assert len(prior.starts) == OPTIONS.num_starts
    model = np.random.default_rng(0).normal(size=len(tasks.query_label.values))
    alone = transform.to_rating(tasks)(model)
    of_factors, is_known = both.predict(tasks)
    assert is_known.all()
    content_mean = priors["bias"].model.content_mean
    residual = tasks.support_label.values - content_mean[tasks.support_item.values]
    by_hand = content_mean[tasks.query_item.values] + np.mean(
        [
            start.predict_residual(tasks.support_item, residual, tasks.query_item)[0]
            for start in prior.starts
        ],
        axis=0,
    )
    assert blended(plain, tasks, alone) == pytest.approx(alone)
    assert blended(both, tasks, alone) == pytest.approx((alone + of_factors) / 2)
    mostly = blended(replace(both, weight=0.9), tasks, alone)
    assert mostly == pytest.approx(0.1 * alone + 0.9 * of_factors)
    low, high = store.manifest.ratings.lowest, store.manifest.ratings.highest
    assert of_factors == pytest.approx(np.clip(by_hand, low, high))
    narrow = replace(
        transform.ratings, lowest=np.quantile(by_hand, 0.3), highest=np.median(by_hand)
    )
    clipped, _ = replace(both, transform=replace(transform, ratings=narrow)).predict(tasks)
    assert clipped == pytest.approx(np.clip(by_hand, narrow.lowest, narrow.highest))

    unknown = tasks.query_item.values[0]
    fewer = [
        replace(
            start,
            **{
                name: getattr(start, name)[start.item != unknown]
                for name in ("item", "mean", "variance", "with_offset")
            },
        )
        for start in prior.starts
    ]
    rating = blended(replace(both, priors=[BayesianMFPrior(fewer)]), tasks, alone)
    is_asked = tasks.query_item.values == unknown
    assert np.array_equal(rating[is_asked], alone[is_asked])
    assert not np.array_equal(rating[~is_asked], alone[~is_asked])


def test_targets_of_training_know_nothing_of_it(tmp_path):
    prepare(csv_config(write_log(tmp_path)), tmp_path / "store")
    store = Store(tmp_path / "store")
    priors = fit_all(store)
    tasks = store.split("train", CHOICE).tasks

    def targets(use_bayesian_mf):
        config = Config(model=ModelConfig(use_bayesian_mf=use_bayesian_mf))
        scorer = build_model(config, store, priors).scorer
        assert bool(scorer.blend.priors) == use_bayesian_mf
        return scorer.collator.target_transform.apply(tasks, is_training=True)

    one, two = (targets(has) for has in (False, True))
    assert np.array_equal(one.support_label.values, two.support_label.values)
    assert np.array_equal(one.query_label.values, two.query_label.values)
