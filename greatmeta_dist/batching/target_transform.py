"""From ratings to the model's targets, and from its predictions back to ratings.

Shapes: U users, n rows of a set (support or query) of all users, end to end.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from greatmeta_dist.data.manifest import Ratings
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.priors.bias import BiasModel
from greatmeta_dist.ragged import Ragged

Floats = NDArray[np.float64]
LEAST_CHANCE = 0.02
"""Prior chances of a click are kept this far from 0 and 1, where a logit is infinite."""


@dataclass(frozen=True)
class TargetTransform:
    """Takes prior means off ratings before the model sees them."""

    kind: str
    """``rating``, ``standardised`` or ``bias``, as ``model.target``."""
    ratings: Ratings
    bias: BiasModel
    is_click: bool = False

    @property
    def scale(self) -> float:
        """Ratings for each unit of the target."""
        if self.kind == "rating" or self.is_click:
            return 1.0
        return self.ratings.deviation or 1.0

    def apply(self, tasks: TaskTable, *, is_training: bool) -> TaskTable:
        """The same tasks with targets in the model's units.

        Of clicks the labels stay 0 and 1: the prior mean, a chance, is given as a logit, to which
        the model's output is added.
        """
        support, query = self.prior_means(tasks, is_training=is_training)
        if self.is_click:
            return replace(tasks, support_logit=self.logit(support), query_logit=self.logit(query))

        def target(rating: Ragged, prior_mean: Floats) -> Ragged:
            residual = (rating.values - prior_mean) / self.scale
            return Ragged(residual.astype(np.float32), rating.offsets)

        return replace(
            tasks,
            support_label=target(tasks.support_label, support),
            query_label=target(tasks.query_label, query),
        )

    def prior_means(self, tasks: TaskTable, *, is_training: bool) -> tuple[Floats, Floats]:
        """What a rating is expected to be before the model: [n] of the support and of the query.

        The user's offset is always of the support rows. A training user's rating is left out of its
        item's mean: else the model would learn from targets that hold a part of the answer.
        """
        sets = ((tasks.support_item, tasks.support_label), (tasks.query_item, tasks.query_label))
        support, query = (
            self.item_means(
                item.values, without=rating.values.astype(np.float64) if is_training else None
            )
            for item, rating in sets
        )
        if self.kind in ("rating", "standardised"):
            return support, query
        lengths = tasks.support_item.lengths
        offset = self.bias.user_offsets(tasks.support_label.values - support, lengths)
        return (
            support + np.repeat(offset, lengths),
            query + np.repeat(offset, tasks.query_item.lengths),
        )

    def item_means(self, item: NDArray, *, without: Floats | None = None) -> Floats:
        """What a rating of items [n] is expected to be before the user is known.

        ``without`` is as in ``BiasModel.item_means``.
        """
        if self.kind in ("rating", "standardised"):
            return np.full(len(item), 0.0 if self.kind == "rating" else self.ratings.mean)
        return self.bias.item_means(item, without=without)

    def to_rating(self, tasks: TaskTable) -> Callable[[NDArray], Floats]:
        """A function from predictions for the query rows [n] to ratings in their range.

        Of clicks, to chances.
        """
        _, prior_mean = self.prior_means(tasks, is_training=False)

        def rating(prediction: NDArray) -> Floats:
            if self.is_click:
                chance: Floats = expit(prediction + self.logit(prior_mean))
                return chance
            return self.in_range(prediction.astype(np.float64) * self.scale + prior_mean)

        return rating

    def in_range(self, rating: Floats) -> Floats:
        """Ratings clipped to those that the data allow."""
        return np.clip(rating, self.ratings.lowest, self.ratings.highest)

    def logit(self, prior_mean: Floats) -> Floats:
        """Of clicks, the logits of prior means [n], to which the model's output is added."""
        if self.kind == "rating":
            return np.zeros(len(prior_mean))
        chance = np.clip(prior_mean, LEAST_CHANCE, 1 - LEAST_CHANCE)
        return np.log(chance / (1 - chance))
