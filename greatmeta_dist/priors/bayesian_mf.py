"""Bayesian matrix factorisation of the training ratings: what it is, and how users are folded in.

A rating is modelled as r_ij = mⱼ + h_i · t_j + noise. mⱼ is the content mean of item j. An item has
t_j = (d_j, l_j, v_j): an offset d, a loading l about 1 on users' offsets, and factors v. A user has
h_i = (1, x_i) with x_i = (a_i, z_i): an offset a and factors z. A priori, items' numbers are normal
with estimated variances, so that what the ratings do not bear out comes to nothing; users' are a
mixture of normals (``mixture``). How the posterior is found stands in ``bayesian_mf_fit``.

New users need no training: given the items, the posterior of x is a linear regression on their few
ratings, in closed form.

Shapes: I items that are factorised, U users, D = 2 + factors, E = D − 1 numbers of a user.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.config.priors import PriorsConfig
from greatmeta_dist.priors.base import Progress, RatingPrior, State, TrainingRows
from greatmeta_dist.priors.mixture import Floats, Mixture
from greatmeta_dist.ragged import Ragged


@dataclass(frozen=True)
class BayesianMF:
    """The posterior of the items, and the prior of users."""

    item: NDArray[np.int64]
    """[I] ascending."""
    mean: Floats
    """[I, D] E[t], t = (d, l, v)."""
    variance: Floats
    """[I, E] variances of (l, v)."""
    with_offset: Floats
    """[I, E] E[d · (l, v)]."""
    noise: float
    """Variance of a rating about its expectation."""
    users: Mixture
    """Prior of users' x = (a, z)."""

    def predict_residual(
        self, support: Ragged, residual: Floats, query: Ragged
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """As ``RatingPrior.predict_residual``; ratings of items that are not held say nothing."""
        is_known_support, support_at = self._position(support.values)
        is_known_query, query_at = self._position(query.values)
        num_users, width = len(support.lengths), self.mean.shape[1] - 1
        linear = np.zeros((num_users, width))
        precision = np.zeros((num_users, width, width))
        for user in range(num_users):
            rows = np.arange(*support.offsets[user : user + 2])
            rows = rows[is_known_support[rows]]
            precision[user], linear[user] = self._evidence(support_at[rows], residual[rows])
        expected, _ = self.users.posterior(precision, linear).moments()
        predicted = np.zeros(len(query.values))
        for user, x in enumerate(expected):
            asked = slice(*query.offsets[user : user + 2])
            t = self.mean[query_at[asked]]
            predicted[asked] = t[:, 0] + t[:, 1:] @ x
        return predicted, is_known_query

    def _evidence(self, at: NDArray[np.int64], residual: Floats) -> tuple[Floats, Floats]:
        """Precision [E, E] and linear term [E] of x from one user's rated items at ``at``.

        E[(l, v)(l, v)ᵀ] is the product of means plus a covariance. Only the covariance's diagonal
        is kept: this saves D² numbers for each item, and moves the RMSE on MovieLens 100K by less
        than 0.0003.
        """
        loading = self.mean[at, 1:]
        precision = loading.T @ loading + np.diag(self.variance[at].sum(0))
        # Σ (r − d) · (l, v), in expectation: the offset d and the loadings are correlated.
        linear = loading.T @ residual - self.with_offset[at].sum(0)
        return precision / self.noise, linear / self.noise

    def _position(self, item: NDArray) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Whether each item is held, and where."""
        at = np.minimum(np.searchsorted(self.item, item), len(self.item) - 1)
        return self.item[at] == item, at


class BayesianMFPrior(RatingPrior):
    """Factorisations of several random starts, whose predictions are averaged.

    Each start of a small log ends at another optimum, and their mean predicts better than any one.
    """

    def __init__(self, starts: list[BayesianMF]):
        self.starts = starts

    @classmethod
    def fit(
        cls,
        rows: TrainingRows,
        options: PriorsConfig,
        *,
        fitted: Mapping[str, Any],
        progress: Progress,
    ) -> Self:
        from greatmeta_dist.priors.bayesian_mf_fit import fit_starts

        return cls(fit_starts(rows, options, fitted["bias"].model.content_mean, progress))

    def predict_residual(
        self, support: Ragged, residual: Floats, query: Ragged
    ) -> tuple[Floats, NDArray[np.bool_]]:
        total, is_known = np.zeros(len(query.values)), np.zeros(len(query.values), bool)
        for start in self.starts:
            predicted, is_known = start.predict_residual(support, residual, query)
            total += predicted / len(self.starts)
        return total, is_known

    def state(self) -> State:
        arrays = {
            f"{number}.{name}": array
            for number, start in enumerate(self.starts)
            for name, array in {
                "item": start.item,
                "mean": start.mean,
                "variance": start.variance,
                "with_offset": start.with_offset,
                "users.weight": start.users.weight,
                "users.mean": start.users.mean,
                "users.precision": start.users.precision,
            }.items()
        }
        return arrays, {"noise": [start.noise for start in self.starts]}

    @classmethod
    def from_state(
        cls, arrays: dict[str, NDArray], details: dict[str, Any], *, fitted: Mapping[str, Any]
    ) -> Self:
        def start(number: int, noise: float) -> BayesianMF:
            def array(name: str) -> NDArray:
                return arrays[f"{number}.{name}"]

            return BayesianMF(
                array("item"),
                mean=array("mean"),
                variance=array("variance"),
                with_offset=array("with_offset"),
                noise=noise,
                users=Mixture(array("users.weight"), array("users.mean"), array("users.precision")),
            )

        return cls([start(number, noise) for number, noise in enumerate(details["noise"])])
