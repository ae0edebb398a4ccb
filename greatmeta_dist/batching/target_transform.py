"""What the model predicts of a rating, and the way back."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from greatmeta_dist.data.store import Ratings, Store
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.priors.bayesian_mf import BayesianMF
from greatmeta_dist.ragged import Ragged

DEFAULT_BLEND_WEIGHT = 0.5
"""Of the factorisations in predictions, until validation users tell which share is best."""

LEAST_CHANCE = 0.02
"""Expected chances of a click are kept this far from 0 and 1."""


@dataclass(frozen=True)
class TargetTransform:
    """What the model predicts of a rating, and the way back."""

    ratings: Ratings
    kind: str
    """As ``model.target``."""
    item_count: NDArray[np.int64]
    item_sum: NDArray[np.float64]
    """[items] number and sum of the training users' ratings."""
    content_mean: NDArray[np.float64]
    """[items] what an item's mean is shrunk to."""
    item_damping: float
    user_damping: float
    """Ratings' worth of prior of an item's mean and of a user's offset."""
    is_click: bool = False
    factorisations: list[BayesianMF] = field(default_factory=list)
    """Where given, their mean has a part in predictions."""
    blend_weight: float = DEFAULT_BLEND_WEIGHT
    """Of the factorisations in these; the rest is the model's."""

    @classmethod
    def of(cls, store: Store, kind: str, *, use_bayesian_mf: bool = False) -> "TargetTransform":
        ratings = store.manifest.ratings
        return cls(
            ratings,
            kind,
            *store.item_statistics(),
            store.content_mean(),
            ratings.item_damping,
            ratings.user_damping,
            store.manifest.is_click,
            store.factorisations() if use_bayesian_mf else [],
        )

    def expected(self, tasks: TaskTable, *, is_training: bool) -> tuple[NDArray, NDArray]:
        """What is taken off the ratings of support and query rows before the model sees them.

        A training user's own rating is kept out of its item's mean.
        """
        sets = ((tasks.support_item, tasks.support_label), (tasks.query_item, tasks.query_label))
        if self.kind in ("rating", "standardised"):
            mean = 0.0 if self.kind == "rating" else self.ratings.mean
            return tuple(np.full(len(r.values), mean) for _, r in sets)  # type: ignore[return-value]
        support, query = (
            self.item_mean(i.values, own=r.values.astype(np.float64) if is_training else None)
            for i, r in sets
        )
        lengths = tasks.support_item.lengths
        owner = np.repeat(np.arange(len(lengths)), lengths)
        rest = tasks.support_label.values - support
        user = np.bincount(owner, rest, len(lengths)) / (lengths + self.user_damping)
        return support + user[owner], query + np.repeat(user, tasks.query_item.lengths)

    def item_mean(self, item: NDArray, *, own: NDArray | None) -> NDArray[np.float64]:
        """Shrunk means of items, each without the rating ``own`` of it where given."""
        count, expected = self.item_count[item].astype(np.float64), self.content_mean[item]
        total = self.item_sum[item] - expected * count
        if own is not None:
            count, total = count - 1, total - (own - expected)
        return expected + total / (count + self.item_damping)

    @property
    def scale(self) -> float:
        """Ratings for each unit of the label."""
        if self.kind == "rating" or self.is_click:
            return 1.0
        return self.ratings.deviation or 1.0

    def logit(self, expected: NDArray) -> NDArray[np.float64]:
        """Of clicks: what predictions are added to, from what is expected."""
        if self.kind == "rating":
            return np.zeros(len(expected))
        chance = np.clip(expected, LEAST_CHANCE, 1 - LEAST_CHANCE)
        return np.log(chance / (1 - chance))

    def apply(self, tasks: TaskTable, *, is_training: bool) -> TaskTable:
        """The same tasks with target_transform in the model's units."""
        support, query = self.expected(tasks, is_training=is_training)
        if self.is_click:
            return replace(tasks, support_logit=self.logit(support), query_logit=self.logit(query))

        def label(rating: Ragged, expected: NDArray) -> Ragged:
            rest = (rating.values - expected) / self.scale
            return Ragged(rest.astype(np.float32), rating.offsets)

        return replace(
            tasks,
            support_label=label(tasks.support_label, support),
            query_label=label(tasks.query_label, query),
        )

    def to_rating(self, tasks: TaskTable) -> Callable[[NDArray], NDArray[np.float64]]:
        """How predictions for the query rows become ratings, in their range, or chances of a click.

        Of items that the factorisations, if there are any, know: with their share in it.
        """
        of_model = self.of_model(tasks)
        of_factors, is_known = self.factorised(tasks)

        def rating(prediction: NDArray) -> NDArray[np.float64]:
            found = of_model(prediction)
            return np.where(is_known, found + self.blend_weight * (of_factors - found), found)

        return rating

    def of_model(self, tasks: TaskTable) -> Callable[[NDArray], NDArray[np.float64]]:
        """As ``to_rating``, of the model by itself."""
        _, expected = self.expected(tasks, is_training=False)

        def rating(prediction: NDArray) -> NDArray[np.float64]:
            if self.is_click:
                chance: NDArray[np.float64] = expit(prediction + self.logit(expected))
                return chance
            return self._in_range(prediction.astype(np.float64) * self.scale + expected)

        return rating

    def factorised(self, tasks: TaskTable) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The factorisations' mean for the query rows, and which of their items they know.

        Without factorisations, none.
        """
        item, query = tasks.support_item.values, tasks.query_item.values
        rest = tasks.support_label.values - self.content_mean[item]
        found, is_known = np.zeros(len(query)), np.zeros(len(query), bool)
        for one in self.factorisations:
            rating, is_known = one.predict(tasks.support_item, rest, tasks.query_item)
            found += rating / len(self.factorisations)
        return self._in_range(found + self.content_mean[query]), is_known

    def _in_range(self, rating: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.clip(rating, self.ratings.lowest, self.ratings.highest)
