"""What an item's features alone say of its ratings: the means that few ratings shrink to."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

from greatmeta_dist.tasks.batch import Ragged

PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
FOLDS = 5
MIN_ITEMS = 50
"""Rated items for which a regression is worth trying."""
MAX_TUNED_ITEMS = 50_000
"""Items that the penalty is chosen by."""


def expected_ratings(
    fields: Sequence[Ragged],
    count: NDArray[np.int64],
    total: NDArray[np.float64],
    *,
    prior: float,
    seed: int,
) -> NDArray[np.float64]:
    """The rating that each item's features lead to expect: [items].

    ``fields`` hold the embedding rows of every item's values, ``count`` and ``total`` the training
    ratings of each item and their sum; ``prior`` is the ratings' worth of prior of a plain item
    mean. Ridge regression of the items' means on their values. For rated items, an item counts as
    far as its mean is known. For unrated ones it counts as often as it is rated: those that people
    rate are not like all others, the more an item is rated the higher its ratings.
    """
    mean = float(total.sum() / count.sum())
    rated = np.flatnonzero(count)
    if not fields or len(rated) < MIN_ITEMS:
        return np.full(len(count), mean)
    values = _indicators(fields)
    target = total[rated] / count[rated] - mean
    tuned = np.random.default_rng([seed, 31]).permutation(len(rated))[:MAX_TUNED_ITEMS]
    of_rated, of_others = (
        _regress(values, rated, target, weight * len(weight) / weight.sum(), tuned)
        for weight in (count[rated] / (count[rated] + prior), count[rated].astype(np.float64))
    )
    expected: NDArray[np.float64] = mean + np.where(count > 0, of_rated, of_others)
    return expected


def _regress(
    values: sparse.csr_matrix,
    rated: NDArray[np.int64],
    target: NDArray,
    weight: NDArray,
    tuned: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Predictions for all items from the rated ones; 0 where features do not help.

    The penalty is chosen by cross-validation on the rated items ``tuned``.
    """
    known = values[rated]
    error = {
        penalty: _held_out_error(known[tuned], target[tuned], weight[tuned], penalty)
        for penalty in PENALTIES
    }
    penalty = min(error, key=lambda p: error[p])
    centre = np.average(target[tuned], weights=weight[tuned])
    if error[penalty] >= np.average((target[tuned] - centre) ** 2, weights=weight[tuned]):
        return np.zeros(values.shape[0])
    model = Ridge(penalty).fit(known, target, sample_weight=weight)
    predicted: NDArray[np.float64] = model.predict(values)
    return predicted


def _indicators(fields: Sequence[Ragged]) -> sparse.csr_matrix:
    """One column for each embedding row; a list's entries have length one together."""
    item = np.concatenate([np.repeat(np.arange(len(f.lengths)), f.lengths) for f in fields])
    size = np.concatenate(
        [np.repeat(1 / np.sqrt(np.maximum(n, 1)), n) for n in (f.lengths for f in fields)]
    )
    _, column = np.unique(np.concatenate([f.values for f in fields]), return_inverse=True)
    return sparse.csr_matrix((size, (item, column)))


def _held_out_error(
    values: sparse.csr_matrix, target: NDArray, weight: NDArray, penalty: float
) -> float:
    squares = 0.0
    for fitted, held in KFold(FOLDS, shuffle=True, random_state=0).split(target):
        model = Ridge(penalty).fit(values[fitted], target[fitted], sample_weight=weight[fitted])
        squares += float((weight[held] * (model.predict(values[held]) - target[held]) ** 2).sum())
    return squares / float(weight.sum())
