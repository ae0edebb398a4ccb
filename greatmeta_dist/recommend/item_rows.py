"""Embedding rows of new items: what training would have made of them, guessed from their factors.

The training items have both, factors in the factorisation and a trained row. A ridge regression
from one to the other, fitted over them, gives a new item its row.

Shapes: n training items, m new items, X inputs, d embedding width.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.priors.bayesian_mf import BayesianMFPrior

Floats = NDArray[np.float64]
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""To choose from by cross-validation, as shares of the inputs' mean square over all items."""
NUM_FOLDS = 5


@dataclass(frozen=True)
class RowMap:
    """A linear map from items' factors to how far their rows lie from the unknown item's row."""

    weight: Floats
    """[X, d]"""
    mean: Floats
    """[d] how far the training items' mean row lies from the unknown row."""

    @classmethod
    def fit(cls, inputs: Floats, moves: Floats, count: Floats) -> Self:
        """From training items' ``inputs`` [n, X], their rows less the unknown row [n, d], and how
        much each item counts [n]."""
        mean: Floats = (count @ moves) / max(float(count.sum()), 1e-12)
        about = moves - mean
        fold = np.arange(len(inputs)) % NUM_FOLDS
        parts = [
            _normal_equations(*(a[fold == k] for a in (inputs, about, count)))
            for k in range(NUM_FOLDS)
        ]
        square, cross = (np.sum([p[side] for p in parts], axis=0) for side in (0, 1))
        unit = max(float(np.trace(square)) / len(square), 1e-12)

        def error(penalty: float) -> float:
            total = 0.0
            for k, (of_fold, cross_of_fold) in enumerate(parts):
                weight = _solve(square - of_fold, cross - cross_of_fold, penalty * unit)
                missed: Floats = about[fold == k] - inputs[fold == k] @ weight
                total += float((count[fold == k] @ missed**2).sum())
            return total

        penalty = min(PENALTIES, key=error)
        return cls(_solve(square, cross, penalty * unit), mean)

    def moves(self, inputs: Floats, known: Floats) -> Floats:
        """[m, d] how far new items' rows lie from the unknown row.

        ``inputs`` [m, X] are near 0 where little is known, and ``known`` [m] is how much of the
        training items' mean an item gets, 0 to 1.
        """
        moved: Floats = inputs @ self.weight + known[:, None] * self.mean
        return moved


def _normal_equations(inputs: Floats, about: Floats, count: Floats) -> tuple[Floats, Floats]:
    weighted: Floats = inputs * count[:, None]
    return weighted.T @ inputs, weighted.T @ about


def _solve(square: Floats, cross: Floats, penalty: float) -> Floats:
    solved = np.linalg.solve(square + penalty * np.eye(len(square)), cross)
    return np.asarray(solved, np.float64)


def factor_inputs(means: list[Floats]) -> Floats:
    """[m, X] what all starts say of items: their E[t] [m, D] less that of an unknown item."""
    about_prior = []
    for mean in means:
        about = mean.copy()
        about[:, 1] -= 1.0  # the loading on users' offsets is 1 a priori
        about_prior.append(about)
    return np.concatenate(about_prior, 1)


def training_inputs(prior: BayesianMFPrior) -> tuple[NDArray[np.int64], Floats]:
    """The factorised items [n], and their inputs [n, X]."""
    return prior.starts[0].item, factor_inputs([start.mean for start in prior.starts])
