"""Two predictions are better than one: the model's is blended with what rating priors predict.

The blended prediction is (1 − w) · model + w · prior. The weight w is fitted to the validation users
once a training ends, and saved with the run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.batching.target_transform import Floats, TargetTransform
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.priors.base import RatingPrior

DEFAULT_WEIGHT = 0.5
"""The weight while training, when nothing has been fitted yet."""
WEIGHT_DEVIATION = 0.25
"""A priori, the weight is normal about a half with this standard deviation."""


@dataclass(frozen=True)
class Blend:
    """Rating priors, and how much of a prediction is theirs. Without priors it changes nothing."""

    priors: Sequence[RatingPrior]
    transform: TargetTransform
    weight: float = DEFAULT_WEIGHT

    def of_tasks(self, tasks: TaskTable) -> Callable[[Floats], Floats]:
        """How the model's predicted ratings of the query rows [n] become blended ones.

        Items that the priors do not know keep the model's prediction.
        """
        if not self.priors:
            return lambda rating: rating
        of_priors, is_known = self.predict(tasks)

        def blended(rating: Floats) -> Floats:
            return np.where(is_known, rating + self.weight * (of_priors - rating), rating)

        return blended

    def predict(self, tasks: TaskTable) -> tuple[Floats, NDArray[np.bool_]]:
        """The priors' mean rating of every query row [n], and which of the items they know."""
        content_mean = self.transform.bias.content_mean
        item, query = tasks.support_item.values, tasks.query_item.values
        residual = tasks.support_label.values - content_mean[item]
        total, is_known = np.zeros(len(query)), np.ones(len(query), bool)
        for prior in self.priors:
            predicted, knows = prior.predict_residual(
                tasks.support_item, residual, tasks.query_item
            )
            total += predicted / len(self.priors)
            is_known &= knows
        return self.transform.in_range(total + content_mean[query]), is_known


@dataclass(frozen=True)
class BlendSums:
    """What the weight's fit needs of a batch of users: sums over the rows that priors know."""

    cross: float = 0.0
    """Σ (prior − model) · (rating − model)."""
    square: float = 0.0
    """Σ (prior − model)²."""
    error: float = 0.0
    """Σ (rating − model)²."""
    count: int = 0

    @classmethod
    def of_rows(cls, rating: Floats, model: Floats, prior: Floats) -> "BlendSums":
        """From rows [n] that the priors know."""
        apart, error = prior - model, rating - model
        return cls(float(apart @ error), float(apart @ apart), float(error @ error), len(error))

    def __add__(self, other: "BlendSums") -> "BlendSums":
        return BlendSums(
            self.cross + other.cross,
            self.square + other.square,
            self.error + other.error,
            self.count + other.count,
        )


def fit_blend_weight(batches: Sequence[BlendSums]) -> float:
    """The most likely weight in [0, 1], given the validation users' batches, in order.

    Errors are taken for normal, of the model's own variance. The prior on the weight is normal,
    too, so that few ratings hardly move it from a half.
    """
    total = sum(batches, start=BlendSums())
    if not total.square or not np.isfinite(total.square):
        return DEFAULT_WEIGHT
    damping = total.error / total.count / WEIGHT_DEVIATION**2
    weight = (total.cross + DEFAULT_WEIGHT * damping) / (total.square + damping)
    return min(1.0, max(0.0, weight))
