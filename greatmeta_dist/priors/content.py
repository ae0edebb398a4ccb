"""Content regression: predicts an item's mean rating from its features.

The means of items with few ratings are shrunk towards this prediction. Items without ratings have
nothing else.

Shapes: I items of the catalogue, R rated items.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

from greatmeta_dist.config.priors import ContentConfig
from greatmeta_dist.priors.base import ItemFeature
from greatmeta_dist.priors.content_model import (
    ContentModel,
    RidgeOfValues,
    TreeColumns,
    Trees,
    first_columns,
    indicators,
    value_matrix,
)
from greatmeta_dist.ragged import Ragged, offsets_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ContentFit:
    """What features say of items' mean ratings."""

    means: Floats
    """[I] predicted mean rating of every item."""
    model: ContentModel
    """Predicted the items without ratings, and predicts those that come later."""
    held_out: NDArray[np.int64]
    """Rated items that were held out in turn."""
    held_out_means: Floats
    """[held out] what ``model``, fitted without the item, predicts of it."""


def content_means(
    features: Sequence[ItemFeature],
    count: NDArray[np.int64],
    total: Floats,
    *,
    damping: float,
    options: ContentConfig,
    seed: int,
) -> ContentFit:
    """Predict every item's mean rating from its features.

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
        means = np.full(len(count), mean)
        return ContentFit(means, ContentModel(mean), rated, means[rated])
    target = total[rated] / count[rated] - mean
    order = np.random.default_rng([seed, 31]).permutation(len(rated))
    regression = _Regression(rated, target, order[: options.max_tuned_items], options)

    weight = count[rated] / (count[rated] + damping)
    frequent = [_with_rare_as_one(f) for f in features]
    ridge = regression.fit(frequent, weight * len(weight) / weight.sum()).model
    means = mean + ridge.predict(frequent) if ridge else np.full(len(count), mean)
    model, held_out_means = _fit_unrated(
        features, regression, count[rated] * (len(rated) / count.sum()), mean
    )
    unrated = np.flatnonzero(count == 0)
    if len(unrated):
        means[unrated] = model.predict([f.take(unrated) for f in features])
    return ContentFit(means, model, rated[regression.tuned], held_out_means)


def _fit_unrated(
    features: Sequence[ItemFeature], regression: "_Regression", weight: Floats, mean: float
) -> tuple[ContentModel, Floats]:
    """The model of items without ratings, and what it predicts of each tuned item held out.

    The better of ridge regression and trees, by their errors on held-out items. ``weight`` [R] is
    of the rated items.
    """
    ridge = regression.fit(features, weight)
    columns = _tree_columns(features, regression.rated, regression.options)
    known = columns.of(features, regression.rated[regression.tuned])
    if known.shape[1]:
        target, tuned_weight = regression.target[regression.tuned], weight[regression.tuned]
        make_trees = partial(_trees, regression.options)
        held_out, error = regression.held_out(make_trees, known, target, tuned_weight)
        if error < ridge.error:
            fitted = make_trees().fit(known, target, sample_weight=tuned_weight)
            trees = Trees.of_regressor(fitted, columns)
            return ContentModel(mean, trees=trees), mean + held_out
    return ContentModel(mean, ridge.model), mean + ridge.held_out


def _with_rare_as_one(feature: ItemFeature) -> ItemFeature:
    """A feature with all rare values as one, as the model's embedding has them."""
    codes = feature.codes
    frequent = np.minimum(codes.values, feature.num_frequent)
    return replace(feature, codes=Ragged(frequent, codes.offsets))


def _tree_columns(
    features: Sequence[ItemFeature], rated: NDArray[np.int64], options: ContentConfig
) -> TreeColumns:
    """The columns of trees; only values that enough rated items have get an indicator.

    Each costs trees a pass over all.
    """
    chosen = []
    for codes in (f.codes for f in features if f.number is None):
        has_value = value_matrix(codes, num_values=int(codes.values.max(initial=-1)) + 1)
        num_items = np.asarray(has_value[rated].sum(0)).ravel()
        frequent = np.argsort(-num_items, kind="stable")[: options.tree_max_values]
        chosen.append(frequent[num_items[frequent] >= options.tree_min_value_items])
    lengths = np.array([len(values) for values in chosen], np.int64)
    values = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
    return TreeColumns(Ragged(values, offsets_of(lengths)))


@dataclass(frozen=True)
class _RidgeFit:
    """A ridge regression, and how well it predicts held-out items."""

    model: RidgeOfValues | None
    """None where held-out items are predicted no better than by their mean."""
    held_out: Floats
    """[tuned] what is predicted of each item, held out."""
    error: float
    """Weighted mean squared error of these."""


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

    def fit(self, features: Sequence[ItemFeature], weight: Floats) -> _RidgeFit:
        """Fit to the features' values, each item with its ``weight`` [R]."""
        codes = [f.codes for f in features]
        first = first_columns(codes)
        known = indicators(codes, first)[self.rated]
        target, tuned_weight = self.target[self.tuned], weight[self.tuned]
        held_out = {
            penalty: self.held_out(partial(Ridge, penalty), known[self.tuned], target, tuned_weight)
            for penalty in self.options.penalties
        }
        penalty = min(held_out, key=lambda p: held_out[p][1])
        centre = np.average(target, weights=tuned_weight)
        error_of_mean = float(np.average((target - centre) ** 2, weights=tuned_weight))
        if held_out[penalty][1] >= error_of_mean:
            return _RidgeFit(None, np.zeros(len(target)), error_of_mean)
        fitted = Ridge(penalty).fit(known, self.target, sample_weight=weight)
        model = RidgeOfValues(fitted.coef_, first, float(fitted.intercept_))
        return _RidgeFit(model, *held_out[penalty])

    def held_out(
        self,
        make: Callable[[], Ridge | HistGradientBoostingRegressor],
        values: sparse.csr_matrix | NDArray,
        target: Floats,
        weight: Floats,
    ) -> tuple[Floats, float]:
        """Cross-validation: what is predicted of each item, and the weighted mean squared error."""
        squares, predicted = 0.0, np.zeros(len(target))
        folds = KFold(self.options.num_folds, shuffle=True, random_state=0)
        for fitted, held in folds.split(target):
            model = make().fit(values[fitted], target[fitted], sample_weight=weight[fitted])
            predicted[held] = model.predict(values[held])
            squares += float((weight[held] * (predicted[held] - target[held]) ** 2).sum())
        return predicted, squares / float(weight.sum())


def _trees(options: ContentConfig) -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(
        max_iter=options.tree_iterations,
        learning_rate=options.tree_learning_rate,
        max_leaf_nodes=options.tree_leaves,
        min_samples_leaf=options.tree_min_items,
        early_stopping=False,
        random_state=0,
    )
