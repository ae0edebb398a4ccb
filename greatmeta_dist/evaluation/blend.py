"""The model's predictions are blended with those of rating priors, which is better than either.

The blended prediction is (1 − w) · model + w · prior. The blend weight w is fitted to the
validation users once a training ends, and saved with the run.

Shapes: n query rows of a batch of users, end to end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

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

    def apply(
        self,
        tasks: TaskTable,
        ratings: Mapping[str, Floats],
        *,
        users: Sequence[Floats] | None = None,
    ) -> dict[str, Floats]:
        """Ratings [n] that models predict for the query rows, blended with the priors' ones.

        The weight of the priors' rating is smaller as far as they do not know the item; one that a
        prior does not know at all keeps the model's rating. ``users`` are ``user_vectors``, if they
        are there already.
        """
        if not self.priors:
            return dict(ratings)
        of_priors, known = self.predict(tasks, users=users)
        weight = self.weight * known
        return {
            name: np.where(known > 0, rating + weight * (of_priors - rating), rating)
            for name, rating in ratings.items()
        }

    def predict(
        self, tasks: TaskTable, *, users: Sequence[Floats] | None = None
    ) -> tuple[Floats, Floats]:
        """The mean of the priors' ratings of every query row [n], and how well all know its item.

        From 0, where one does not know it, to 1.
        """
        query, residual = tasks.query_item, self._residual(tasks)
        total, known = (
            np.zeros(len(query.values)),
            np.full(len(query.values), 1.0 * bool(self.priors)),
        )
        for k, prior in enumerate(self.priors):
            if users is None:
                predicted, knows = prior.predict_residual(tasks.support_item, residual, query)
            else:
                predicted, knows = prior.predict_with(users[k], query)
            total += predicted / len(self.priors)
            known = np.minimum(known, knows)
        content_mean = self.transform.bias.content_mean[query.values]
        return self.transform.in_range(total + content_mean), known

    def user_vectors(self, tasks: TaskTable) -> list[Floats]:
        """By prior, [U, F] users' numbers; of priors that are inner products alone."""
        residual = self._residual(tasks)
        return [prior.user_vectors(tasks.support_item, residual) for prior in self.priors]

    def _residual(self, tasks: TaskTable) -> Floats:
        """Known ratings less the content means of their items."""
        content_mean = self.transform.bias.content_mean[tasks.support_item.values]
        residual: Floats = tasks.support_label.values - content_mean
        return residual


@dataclass(frozen=True)
class BlendSums:
    """What the weight's fit needs of some users: sums over query rows of items that priors know."""

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
        difference, error = prior - model, rating - model
        return cls(
            cross=float(difference @ error),
            square=float(difference @ difference),
            error=float(error @ error),
            count=len(error),
        )

    def __add__(self, other: "BlendSums") -> "BlendSums":
        return BlendSums(
            self.cross + other.cross,
            self.square + other.square,
            self.error + other.error,
            self.count + other.count,
        )


def fit_blend_weight(batches: Sequence[BlendSums]) -> float:
    """The most likely weight in [0, 1], given the sums of the validation users' batches, in order.

    A maximum a posteriori estimate: errors are taken as normal, with the variance of the model's
    errors, and the weight itself as normal about a half. So few ratings hardly move it from there.
    """
    total = sum(batches, start=BlendSums())
    if not total.square or not np.isfinite(total.square):
        return DEFAULT_WEIGHT
    damping = total.error / total.count / WEIGHT_DEVIATION**2
    weight = (total.cross + DEFAULT_WEIGHT * damping) / (total.square + damping)
    return min(1.0, max(0.0, weight))
