"""What people would otherwise use: means, offsets, and a matrix factorisation."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.evaluation.blend import Blend
from greatmeta_dist.priors.base import RatingPrior
from greatmeta_dist.priors.bias import BiasModel

ITEM_DAMPING, USER_DAMPING = 5.0, 3.0
"""The baselines' dampings, in ratings; the model's are estimated from the log."""


@dataclass(frozen=True)
class Baselines:
    """Means and user offsets with fixed dampings, and the Bayesian factorisation by itself."""

    bias: TargetTransform
    """The bias model with fixed dampings and no content."""
    bayesian_mf: Blend

    @classmethod
    def of(cls, transform: TargetTransform, prior: RatingPrior) -> "Baselines":
        """From a run's target transform and its Bayesian factorisation."""
        estimated = transform.bias
        fixed = BiasModel(
            estimated.item_count,
            estimated.item_sum,
            np.full(len(estimated.item_count), transform.ratings.mean),
            ITEM_DAMPING,
            USER_DAMPING,
        )
        offsets = replace(transform, kind="bias")
        return cls(replace(offsets, bias=fixed, is_click=False), Blend([prior], offsets))

    def predict(self, tasks: TaskTable) -> dict[str, NDArray[np.float64]]:
        """Predicted rating of every query row, users' rows end to end, by baseline.

        Items that the factorisation does not hold get what the estimated offsets predict.
        """
        ratings, item = self.bias.ratings, tasks.query_item.values
        _, bias = self.bias.prior_means(tasks, is_training=False)
        _, offsets = self.bayesian_mf.transform.prior_means(tasks, is_training=False)
        factorised, is_known = self.bayesian_mf.predict(tasks)
        predictions = {
            "global_mean": np.full(len(item), ratings.mean),
            "item_mean": self.bias.bias.item_means(item),
            "bias": bias,
            "factorisation": np.where(is_known, factorised, offsets),
        }
        return {name: self.bias.in_range(rating) for name, rating in predictions.items()}
