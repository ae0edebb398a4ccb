"""Content regression: predicts an item's mean rating from its features.

The means of items with few ratings are shrunk towards this prediction. Items without ratings have
nothing else.

Shapes: I items of the catalogue, R rated items.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

from greatmeta_dist.config.priors import ContentConfig
from greatmeta_dist.priors.base import ItemFeature
from greatmeta_dist.ragged import Ragged

Floats = NDArray[np.float64]
CHUNK_ITEMS = 100_000
"""Items that trees predict at a time: bounds memory, changes no result."""


def content_means(
    features: Sequence[ItemFeature],
    count: NDArray[np.int64],
    total: Floats,
    *,
    damping: float,
    options: ContentConfig,
    seed: int,
) -> Floats:
    """Predict every item's mean rating from its features: [I].

    ``count`` and ``total`` are [I]: training ratings of each item and their sum. ``damping`` is the
    ratings' worth of prior of a plain item mean.

    Rated items are predicted by a ridge regression. In it an item counts as far as its own mean is
    known, and a feature's rare values are one value.

    Items without ratings are predicted by another regression, which differs in three things. An
    item counts as often as it is rated, because predictions are asked for items that people rate,
    and popular items are rated higher. A rare value has a coefficient of its own, because it is all
    that is known of many an item. Boosted trees take the regression's place where they predict
    held-out items better.
    """
    mean = float(total.sum() / count.sum())
    rated = np.flatnonzero(count)
    if not features or len(rated) < options.min_items:
        return np.full(len(count), mean)
    target = total[rated] / count[rated] - mean
    order = np.random.default_rng([seed, 31]).permutation(len(rated))
    regression = _Regression(rated, target, order[: options.max_tuned_items], options)

    weight = count[rated] / (count[rated] + damping)
    predicted, _ = regression.fit_predict(
        _indicators([_with_rare_as_one(f) for f in features]), weight * len(weight) / weight.sum()
    )
    means: Floats = mean + predicted
    unrated = np.flatnonzero(count == 0)
    if len(unrated):
        weight = count[rated] * (len(rated) / count.sum())
        means[unrated] = mean + _predict_unrated(features, regression, weight, unrated)
    return means


def _predict_unrated(
    features: Sequence[ItemFeature],
    regression: "_Regression",
    weight: Floats,
    unrated: NDArray[np.int64],
) -> Floats:
    """Mean ratings of items without ratings, less the mean of all; ``weight`` [R] is of rated ones.

    The better of ridge regression and trees, by their errors on held-out items.
    """
    of_all, ridge_error = regression.fit_predict(_indicators([f.codes for f in features]), weight)
    predicted: Floats = of_all[unrated]
    columns = _TreeColumns(features, regression.rated, regression.options)
    tuned = regression.tuned
    known = columns.of(regression.rated[tuned])
    if not known.shape[1]:
        return predicted
    target, tuned_weight = regression.target[tuned], weight[tuned]
    make_trees = partial(_trees, regression.options)
    if regression.held_out_error(make_trees, known, target, tuned_weight) >= ridge_error:
        return predicted
    trees = make_trees().fit(known, target, sample_weight=tuned_weight)
    for start in range(0, len(unrated), CHUNK_ITEMS):
        chunk = slice(start, start + CHUNK_ITEMS)
        predicted[chunk] = trees.predict(columns.of(unrated[chunk]))
    return predicted


def _with_rare_as_one(feature: ItemFeature) -> Ragged:
    """A feature's codes with all rare values as one, as the model's embedding has them."""
    codes = feature.codes
    return Ragged(np.minimum(codes.values, feature.num_frequent), codes.offsets)


class _TreeColumns:
    """What trees see of items: a number where values have an order, else an indicator a value.

    Only values that enough rated items have get an indicator: each costs trees a pass over all.
    """

    def __init__(
        self, features: Sequence[ItemFeature], rated: NDArray[np.int64], options: ContentConfig
    ):
        self._numbers = [f.number for f in features if f.number is not None]
        self._indicators = []
        for codes in (f.codes for f in features if f.number is None):
            value, column = np.unique(codes.values, return_inverse=True)
            item = np.repeat(np.arange(len(codes.lengths)), codes.lengths)
            has_value = sparse.csr_matrix(
                (np.ones(len(item), np.float32), (item, column)), (len(codes.lengths), len(value))
            )
            num_items = np.asarray(has_value[rated].sum(0)).ravel()
            frequent = np.argsort(-num_items, kind="stable")[: options.tree_max_values]
            is_enough = num_items[frequent] >= options.tree_min_value_items
            self._indicators.append(has_value[:, frequent[is_enough]])

    def of(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """The columns of items [m]: [m, columns]."""
        numbers = [number[items, None].astype(np.float32) for number in self._numbers]
        return np.concatenate([*numbers, *(v[items].toarray() for v in self._indicators)], 1)


@dataclass(frozen=True)
class _Regression:
    """Ridge regression of the rated items' means, its penalty chosen by cross-validation."""

    rated: NDArray[np.int64]
    """[R]"""
    target: Floats
    """[R] mean ratings, less the mean of all."""
    tuned: NDArray[np.int64]
    """Positions among the rated items of those that choose the penalty."""
    options: ContentConfig

    def fit_predict(self, values: sparse.csr_matrix, weight: Floats) -> tuple[Floats, float]:
        """Predictions for all items [I], and the error on held-out items.

        ``values`` is [I, columns], ``weight`` [R]. All predictions are 0 where held-out items are
        predicted no better than by their mean.
        """
        known = values[self.rated]
        target, tuned_weight = self.target[self.tuned], weight[self.tuned]
        errors = {
            penalty: self.held_out_error(
                partial(Ridge, penalty), known[self.tuned], target, tuned_weight
            )
            for penalty in self.options.penalties
        }
        penalty = min(errors, key=lambda p: errors[p])
        centre = np.average(target, weights=tuned_weight)
        error_of_mean = float(np.average((target - centre) ** 2, weights=tuned_weight))
        if errors[penalty] >= error_of_mean:
            return np.zeros(values.shape[0]), error_of_mean
        model = Ridge(penalty).fit(known, self.target, sample_weight=weight)
        predicted: Floats = model.predict(values)
        return predicted, errors[penalty]

    def held_out_error(
        self,
        make: Callable[[], Ridge | HistGradientBoostingRegressor],
        values: sparse.csr_matrix | NDArray,
        target: Floats,
        weight: Floats,
    ) -> float:
        """Weighted mean squared error by cross-validation."""
        squares = 0.0
        folds = KFold(self.options.num_folds, shuffle=True, random_state=0)
        for fitted, held in folds.split(target):
            model = make().fit(values[fitted], target[fitted], sample_weight=weight[fitted])
            errors = model.predict(values[held]) - target[held]
            squares += float((weight[held] * errors**2).sum())
        return squares / float(weight.sum())


def _trees(options: ContentConfig) -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(
        max_iter=options.tree_iterations,
        learning_rate=options.tree_learning_rate,
        max_leaf_nodes=options.tree_leaves,
        min_samples_leaf=options.tree_min_items,
        early_stopping=False,
        random_state=0,
    )


def _indicators(fields: Sequence[Ragged]) -> sparse.csr_matrix:
    """One column for each value of each field: [I, columns].

    An item of n values of a field has 1/√n in each of their columns. So the row has length 1, and
    an item of many values does not count more.
    """
    item = np.concatenate([np.repeat(np.arange(len(f.lengths)), f.lengths) for f in fields])
    size = np.concatenate(
        [np.repeat(1 / np.sqrt(np.maximum(n, 1)), n) for n in (f.lengths for f in fields)]
    )
    first_columns = np.cumsum([0, *(f.values.max(initial=-1) + 1 for f in fields[:-1])])
    column = np.concatenate(
        [f.values + first for f, first in zip(fields, first_columns, strict=True)]
    )
    return sparse.csr_matrix((size, (item, column)))
