"""What people would use instead of the model: means, user offsets, a matrix factorisation."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.evaluation.blend import Blend
from greatmeta_dist.priors.base import RatingPrior
from greatmeta_dist.priors.bias import BiasModel

ITEM_DAMPING, USER_DAMPING = 5.0, 3.0
"""Ratings' worth of prior of an item's mean and of a user's offset. (The model's own dampings are
estimated from the log.)"""


@dataclass(frozen=True)
class NewItemMeans:
    """What is known of the ratings of all items [I] that training did not have."""

    count: NDArray[np.int64]
    """[I] ratings; 0 of items that training had."""
    mean: NDArray[np.float64]
    """[I] mean rating, less the mean of all."""
    mean_residual: NDArray[np.float64]
    """[I] mean of the ratings less their users' offsets, less the mean of all."""


@dataclass(frozen=True)
class Baselines:
    """Means and user offsets with fixed dampings, and the Bayesian factorisation by itself."""

    simple_bias: TargetTransform
    """The bias model with fixed dampings and no content."""
    item_means: BiasModel
    """The same; its items' means are of ratings as they are, also those of new items."""
    bayesian_mf: Blend

    @classmethod
    def of(
        cls, transform: TargetTransform, prior: RatingPrior, rated: NewItemMeans | None = None
    ) -> "Baselines":
        """From a run's target transform and its Bayesian factorisation.

        ``rated`` are ratings of new items, where some are known; the transform and the
        factorisation must know these, too.
        """
        fitted = transform.bias
        simple = BiasModel(
            fitted.item_count,
            fitted.item_sum,
            content_mean=np.full(len(fitted.item_count), transform.ratings.mean),
            item_damping=ITEM_DAMPING,
            user_damping=USER_DAMPING,
        )
        means = simple
        if rated is not None:
            means = replace(
                simple,
                item_count=simple.item_count + rated.count,
                item_sum=simple.item_sum + rated.count * (rated.mean + transform.ratings.mean),
            )
            offset = rated.count * rated.mean_residual / (rated.count + ITEM_DAMPING)
            simple = replace(simple, new_item_offset=offset)
        transform = replace(transform, kind="bias")
        return cls(
            replace(transform, bias=simple, is_click=False), means, Blend([prior], transform)
        )

    def predict(self, tasks: TaskTable) -> dict[str, NDArray[np.float64]]:
        """Predicted rating of every query row, users' rows end to end, by baseline.

        Where the factorisation does not know an item, the fitted bias model stands in for it.
        """
        ratings, item = self.simple_bias.ratings, tasks.query_item.values
        _, bias = self.simple_bias.prior_means(tasks, is_training=False)
        _, fitted_bias = self.bayesian_mf.transform.prior_means(tasks, is_training=False)
        factorised, known = self.bayesian_mf.predict(tasks)
        predictions = {
            "global_mean": np.full(len(item), ratings.mean),
            "item_mean": self.item_means.item_means(item),
            "bias": bias,
            "factorisation": np.where(known > 0, factorised, fitted_bias),
        }
        return {name: self.simple_bias.in_range(rating) for name, rating in predictions.items()}
