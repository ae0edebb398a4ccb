"""The Bayesian matrix factorisation of the training ratings, as a prior that predicts ratings.

``bayesian_mf_model`` says what is modelled, ``bayesian_mf_fit`` how it is fitted.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.config.priors import PriorsConfig
from greatmeta_dist.priors.base import ItemVectors, Progress, RatingPrior, State, TrainingRows
from greatmeta_dist.priors.bayesian_mf_fit import fit_starts
from greatmeta_dist.priors.bayesian_mf_model import BayesianMF
from greatmeta_dist.priors.mixture import Floats, Mixture
from greatmeta_dist.ragged import Ragged


class BayesianMFPrior(RatingPrior):
    """Factorisations from several random starts, whose predictions are averaged.

    On a small log each start ends at another optimum, and their mean predicts better than any one.
    """

    version = 2

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
        return cls(fit_starts(rows, options, fitted["bias"].model.content_mean, progress))

    def predict_residual(
        self, support: Ragged, residual: Floats, query: Ragged
    ) -> tuple[Floats, Floats]:
        return self.predict_with(self.user_vectors(support, residual), query)

    def item_vectors(self, num_items: int) -> ItemVectors:
        item = self.starts[0].item  # all starts know the same items
        means = [start.mean / len(self.starts) for start in self.starts]
        constant, known = np.zeros(num_items), np.zeros(num_items)
        constant[item] = sum(mean[:, 0] for mean in means)
        vector = np.zeros((num_items, sum(mean.shape[1] - 1 for mean in means)))
        vector[item] = np.concatenate([mean[:, 1:] for mean in means], 1)
        known[item] = sum(start.how_known for start in self.starts) / len(self.starts)
        return ItemVectors(constant, vector, known)

    def user_vectors(self, support: Ragged, residual: Floats) -> Floats:
        none = np.empty((len(support.offsets) - 1, 0))
        of_starts = (start.fold_in(support, residual) for start in self.starts)
        return np.concatenate([none, *of_starts], 1)

    def predict_with(self, users: Floats, query: Ragged) -> tuple[Floats, Floats]:
        total, known = np.zeros(len(query.values)), np.zeros(len(query.values))
        of_starts = np.split(users, max(1, len(self.starts)), 1)
        for start, x in zip(self.starts, of_starts, strict=False):
            predicted, of_start = start.predict_with(x, query)
            total += predicted / len(self.starts)
            known += of_start
        # Whole numbers are added up first: an item that every start knows is known 1, exactly.
        return total, known / max(1, len(self.starts))

    def state(self) -> State:
        arrays = {
            f"{number}.{name}": array
            for number, start in enumerate(self.starts)
            for name, array in {
                "item": start.item,
                "mean": start.mean,
                "variance": start.variance,
                "with_offset": start.with_offset,
                "item_variance": start.item_variance,
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
                item_variance=array("item_variance"),
                users=Mixture(array("users.weight"), array("users.mean"), array("users.precision")),
            )

        return cls([start(number, noise) for number, noise in enumerate(details["noise"])])
