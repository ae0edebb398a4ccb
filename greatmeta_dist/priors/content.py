"""What an item's features alone say of its ratings: the means that few ratings shrink to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

from greatmeta_dist.ragged import Ragged

PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
FOLDS = 5
MIN_ITEMS = 50
"""Rated items for which a regression is worth trying."""
MAX_TUNED_ITEMS = 50_000
"""Items that the penalty is chosen by, and that trees are fitted to."""
TREES = {"max_iter": 100, "learning_rate": 0.05, "max_leaf_nodes": 8, "min_samples_leaf": 10}
MAX_VALUES, MIN_VALUE_ITEMS = 64, 10
"""Of each feature, the most frequent values that trees know, and the rated items each must have."""
PORTION_ITEMS = 100_000
"""Unrated items that trees predict at a time."""


@dataclass(frozen=True)
class ItemFeature:
    """One feature of every item."""

    codes: Ragged
    """Which values it has, the most frequent ones first, from 0 on."""
    num_frequent: int
    """Values that have an embedding row; the others are as one to the model."""
    number: NDArray[np.float64] | None
    """[items] its value where values have an order, nan where it is unknown."""

    @property
    def frequent(self) -> Ragged:
        """The same with one value in place of all rare ones."""
        return Ragged(np.minimum(self.codes.values, self.num_frequent), self.codes.offsets)


def content_means(
    features: Sequence[ItemFeature],
    count: NDArray[np.int64],
    total: NDArray[np.float64],
    *,
    prior: float,
    seed: int,
) -> NDArray[np.float64]:
    """The rating that each item's features lead to expect: [items].

    ``count`` and ``total`` are the training ratings of each item and their sum; ``prior`` is the
    ratings' worth of prior of a plain item mean. Ridge regression of the items' means on their
    values. For rated items, an item counts as far as its mean is known, and values that few items
    have count as one. For unrated items there is nothing but their values, rare ones, too; an item
    counts as often as it is rated, for those that people rate are not like all others: the more an
    item is rated the higher its ratings; and boosted trees serve in place of the regression where
    they predict held-out items better.
    """
    mean = float(total.sum() / count.sum())
    rated = np.flatnonzero(count)
    if not features or len(rated) < MIN_ITEMS:
        return np.full(len(count), mean)
    target = total[rated] / count[rated] - mean
    tuned = np.random.default_rng([seed, 31]).permutation(len(rated))[:MAX_TUNED_ITEMS]
    weight = count[rated] / (count[rated] + prior)
    frequent = _indicators([f.frequent for f in features])
    of_rated, _ = _regress(frequent, rated, target, weight * len(weight) / weight.sum(), tuned)
    expected: NDArray[np.float64] = mean + of_rated
    others = np.flatnonzero(count == 0)
    if len(others):
        weight = count[rated] * (len(rated) / count.sum())
        values = _indicators([f.codes for f in features])
        of_others, error = _regress(values, rated, target, weight, tuned)
        expected[others] = mean + of_others[others]
        columns = _Columns(features, rated)
        known = columns.of(rated[tuned])
        if known.shape[1] and _held_out_error(_trees, known, target[tuned], weight[tuned]) < error:
            trees = _trees().fit(known, target[tuned], sample_weight=weight[tuned])
            for start in range(0, len(others), PORTION_ITEMS):
                chunk = others[start : start + PORTION_ITEMS]
                expected[chunk] = mean + trees.predict(columns.of(chunk))
    return expected


class _Columns:
    """What trees see of items: features that have an order as numbers, of others who has which of
    their frequent values."""

    def __init__(self, features: Sequence[ItemFeature], rated: NDArray[np.int64]):
        self._numbers = [f.number for f in features if f.number is not None]
        self._values = []
        for codes in (f.codes for f in features if f.number is None):
            value, column = np.unique(codes.values, return_inverse=True)
            item = np.repeat(np.arange(len(codes.lengths)), codes.lengths)
            has = sparse.csr_matrix(
                (np.ones(len(item), np.float32), (item, column)), (len(codes.lengths), len(value))
            )
            num_items = np.asarray(has[rated].sum(0)).ravel()
            frequent = np.argsort(-num_items, kind="stable")[:MAX_VALUES]
            self._values.append(has[:, frequent[num_items[frequent] >= MIN_VALUE_ITEMS]])

    def of(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """[n, columns] of the items [n]."""
        numbers = [number[items, None].astype(np.float32) for number in self._numbers]
        return np.concatenate([*numbers, *(v[items].toarray() for v in self._values)], 1)


def _trees() -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(**TREES, early_stopping=False, random_state=0)


def _regress(
    values: sparse.csr_matrix,
    rated: NDArray[np.int64],
    target: NDArray,
    weight: NDArray,
    tuned: NDArray[np.int64],
) -> tuple[NDArray[np.float64], float]:
    """Predictions for all items from the rated ones, 0 where features do not help; their error on
    held-out items.

    The penalty is chosen by cross-validation on the rated items ``tuned``.
    """
    known = values[rated]
    error = {
        penalty: _held_out_error(
            partial(Ridge, penalty), known[tuned], target[tuned], weight[tuned]
        )
        for penalty in PENALTIES
    }
    penalty = min(error, key=lambda p: error[p])
    centre = np.average(target[tuned], weights=weight[tuned])
    without = float(np.average((target[tuned] - centre) ** 2, weights=weight[tuned]))
    if error[penalty] >= without:
        return np.zeros(values.shape[0]), without
    model = Ridge(penalty).fit(known, target, sample_weight=weight)
    predicted: NDArray[np.float64] = model.predict(values)
    return predicted, error[penalty]


def _indicators(fields: Sequence[Ragged]) -> sparse.csr_matrix:
    """One column for each value of each field; a list's entries have length one together."""
    item = np.concatenate([np.repeat(np.arange(len(f.lengths)), f.lengths) for f in fields])
    size = np.concatenate(
        [np.repeat(1 / np.sqrt(np.maximum(n, 1)), n) for n in (f.lengths for f in fields)]
    )
    starts = np.cumsum([0, *(f.values.max(initial=-1) + 1 for f in fields[:-1])])
    column = np.concatenate([f.values + start for f, start in zip(fields, starts, strict=True)])
    return sparse.csr_matrix((size, (item, column)))


def _held_out_error(
    make: Callable[[], Ridge | HistGradientBoostingRegressor],
    values: sparse.csr_matrix | NDArray,
    target: NDArray,
    weight: NDArray,
) -> float:
    squares = 0.0
    for fitted, held in KFold(FOLDS, shuffle=True, random_state=0).split(target):
        model = make().fit(values[fitted], target[fitted], sample_weight=weight[fitted])
        squares += float((weight[held] * (model.predict(values[held]) - target[held]) ** 2).sum())
    return squares / float(weight.sum())
