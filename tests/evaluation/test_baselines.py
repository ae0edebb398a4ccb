"""Baselines are what a few lines of arithmetic give."""

from dataclasses import replace

import numpy as np
import pytest
from logs import csv_config, write_log
from small_training import small

from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.evaluation.baselines import ITEM_DAMPING, USER_DAMPING
from greatmeta_dist.predict import Predictor
from greatmeta_dist.training.loop import train


def test_means_and_offsets_are_those_of_a_naive_loop(predictor, store):
    tasks = Store(store).split("user_cold", predictor.feature_spec).tasks
    predicted = predictor.baselines().predict(tasks)
    ratings, rows = Store(store).manifest.ratings, Store(store).training_rows()
    item_mean = ratings.mean + (rows.item_sum - ratings.mean * rows.item_count) / (
        rows.item_count + ITEM_DAMPING
    )
    expected = []
    for user in range(len(tasks)):
        support = slice(*tasks.support_item.offsets[user : user + 2])
        query = slice(*tasks.query_item.offsets[user : user + 2])
        pairs = zip(
            tasks.support_item.values[support], tasks.support_label.values[support], strict=True
        )
        residuals = [rating - item_mean[item] for item, rating in pairs]
        offset = sum(residuals) / (len(residuals) + USER_DAMPING)
        expected += [item_mean[item] + offset for item in tasks.query_item.values[query]]
    assert list(predicted) == ["global_mean", "item_mean", "bias", "factorisation"]
    assert set(predicted["global_mean"]) == {ratings.mean}
    assert predicted["item_mean"] == pytest.approx(item_mean[tasks.query_item.values])
    low, high = ratings.lowest, ratings.highest
    assert predicted["bias"] == pytest.approx(np.clip(expected, low, high))


def test_the_factorisation_predicts_by_itself_and_the_bias_model_where_it_cannot(predictor, store):
    tasks = Store(store).split("both_cold", predictor.feature_spec).tasks
    baselines = predictor.baselines()
    factorised, is_known = baselines.bayesian_mf.predict(tasks)
    assert not is_known.any()  # nobody has rated cold items while the factorisation was fitted
    _, of_bias = predictor.scorer.collator.target_transform.prior_means(tasks, is_training=False)
    predicted = baselines.predict(tasks)["factorisation"]
    assert predicted == pytest.approx(baselines.bias.in_range(of_bias))
    tasks = Store(store).split("user_cold", predictor.feature_spec).tasks
    factorised, is_known = baselines.bayesian_mf.predict(tasks)
    assert is_known.all()
    assert np.array_equal(baselines.predict(tasks)["factorisation"], factorised)


def test_baselines_do_not_depend_on_the_models_target(predictor, store):
    tasks = Store(store).split("user_cold", predictor.feature_spec).tasks
    expected = predictor.baselines().predict(tasks)
    collator = predictor.scorer.collator
    other = replace(collator, target_transform=replace(collator.target_transform, kind="rating"))
    model = replace(predictor.model, scorer=replace(predictor.scorer, collator=other))
    predicted = replace(predictor, model=model).baselines().predict(tasks)
    assert all(np.array_equal(predicted[name], expected[name]) for name in expected)


def test_chances_of_clicks_are_in_their_range(tmp_path):
    config = csv_config(write_log(tmp_path), label="click")
    prepare(config, tmp_path / "store")
    train(small(tmp_path / "store"), tmp_path / "run", Display())
    predictor = Predictor.load(tmp_path / "run")
    tasks = Store(tmp_path / "store").split("user_cold", predictor.feature_spec).tasks
    for chance in predictor.baselines().predict(tasks).values():
        assert ((chance >= 0) & (chance <= 1)).all()
