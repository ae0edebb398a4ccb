"""The saved content regression predicts what the fitted one did, bit for bit."""

import json

import numpy as np
import pytest
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge

from greatmeta_dist.config.priors import ContentConfig
from greatmeta_dist.priors.base import ItemFeature
from greatmeta_dist.priors.content import content_means
from greatmeta_dist.priors.content_model import (
    ContentModel,
    RidgeOfValues,
    TreeColumns,
    Trees,
    first_columns,
    indicators,
)
from greatmeta_dist.ragged import Ragged, offsets_of


def some_features(rng, num_items: int = 300) -> list[ItemFeature]:
    """A token, a list and a number, which some items lack; each item may have an unknown value."""
    offsets = offsets_of(rng.integers(1, 4, num_items))
    year = rng.integers(0, 40, num_items)
    number = np.where(rng.random(num_items) < 0.1, np.nan, year + 0.1)
    every = np.arange(num_items + 1)
    values = [[str(v) for v in range(n)] for n in (5, 20, 40)]
    return [
        ItemFeature(
            "token", values[0], False, Ragged(rng.integers(0, 6, num_items), every), 5, None
        ),
        ItemFeature(
            "list", values[1], True, Ragged(rng.integers(0, 21, offsets[-1]), offsets), 9, None
        ),
        ItemFeature("year", values[2], False, Ragged(year, every), 40, number),
    ]


def test_trees_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    features = some_features(rng)
    columns = TreeColumns(Ragged(np.array([2, 0, 7, 3, 20]), np.array([0, 2, 5])))
    known = columns.of(features, np.arange(300))
    assert known.shape == (300, 6)
    target = rng.normal(size=300) + np.nan_to_num(known[:, 0]) / 10
    model = HistGradientBoostingRegressor(max_iter=30, max_leaf_nodes=6, min_samples_leaf=5)
    model.fit(known, target)
    trees = Trees.of_regressor(model, columns)
    assert np.array_equal(trees.predict(features), model.predict(known))
    few = [f.take(np.array([7, 3])) for f in features]
    assert np.array_equal(trees.predict(few), model.predict(known[[7, 3]]))


def test_ridge_regression_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    features = some_features(rng)
    codes = [f.codes for f in features]
    first = first_columns(codes)
    values = indicators(codes, first)
    assert isinstance(values, sparse.csr_matrix)
    model = Ridge(3.0).fit(values, rng.normal(size=300))
    ridge = RidgeOfValues(model.coef_, first, float(model.intercept_))
    assert np.array_equal(ridge.predict(features), model.predict(values))


def test_values_that_no_item_had_say_nothing():
    first = np.array([0, 2, 5])
    ridge = RidgeOfValues(np.array([1.0, 2.0, 10.0, 20.0, 30.0]), first, 0.5)
    one = np.array([0, 1])
    features = [
        ItemFeature("a", ["x", "y"], False, Ragged(np.array([2]), one), 2, None),
        ItemFeature("b", ["p", "q", "r"], False, Ragged(np.array([1]), one), 3, None),
    ]
    assert ridge.predict(features).tolist() == [20.5]


@pytest.mark.parametrize("kind", ["trees", "ridge", "mean"])
def test_the_model_comes_back_from_its_state(kind):
    rng = np.random.default_rng(0)
    features = some_features(rng)
    # Each of its values has too few items for trees to have a column for it.
    series = np.arange(300) // 5
    names = [str(k) for k in range(60)]
    codes = Ragged(series, np.arange(301))
    used = {
        "trees": features,
        "ridge": [ItemFeature("series", names, False, codes, 60, None)],
        "mean": features[:1],
    }[kind]
    count = rng.integers(0, 40, 300)
    good = {
        "trees": np.where(np.nan_to_num(features[2].number) > 20, 4.0, 3.0),
        "ridge": 3 + 1.0 * (series % 2),
        "mean": np.full(300, 3.0),
    }[kind]
    total = count * good + np.sqrt(count) * rng.normal(size=300)
    fit = content_means(used, count, total, damping=5.0, options=ContentConfig(), seed=0)
    assert (fit.model.trees is not None) == (kind == "trees")
    assert (fit.model.ridge is not None) == (kind == "ridge")
    arrays, details = fit.model.state()
    again = ContentModel.from_state(arrays, json.loads(json.dumps(details)))
    unrated = np.flatnonzero(count == 0)
    assert np.array_equal(again.predict([f.take(unrated) for f in used]), fit.means[unrated])


def test_held_out_items_are_predicted_without_their_own_ratings():
    rng = np.random.default_rng(0)
    features = some_features(rng)
    count = np.full(300, 30)
    year = np.nan_to_num(features[2].number)
    total = 30 * (3 + year / 20 + rng.normal(0, 0.3, 300))

    def held_out(total):
        fit = content_means(features, count, total, damping=5.0, options=ContentConfig(), seed=0)
        assert np.array_equal(np.sort(fit.held_out), np.arange(300))
        means = np.empty(300)
        means[fit.held_out] = fit.held_out_means
        return means

    before, better = held_out(total), total.copy()
    better[7] += 60
    after = held_out(better)
    assert after[7] == pytest.approx(before[7], abs=1e-6)
    assert np.abs(after - before).max() > 1e-3
    assert np.corrcoef(before, total)[0, 1] > 0.8
