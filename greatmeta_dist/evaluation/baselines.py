"""What people would otherwise use: means, offsets, and a matrix factorisation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.data.store import Store
from greatmeta_dist.data.tasks import TaskTable

ITEM_DAMPING, USER_DAMPING = 5.0, 3.0
"""Ratings' worth of prior that the baselines always have; the model's are the store's."""


@dataclass(frozen=True)
class Baselines:
    """Mean, item means and user offsets as the ``bias`` label takes them off, with fixed priors.

    And the store's Bayesian factorisations, which have a part in predictions with
    ``model.use_bayesian_mf``.
    """

    labels: TargetTransform
    of_store: TargetTransform

    @classmethod
    def of(cls, store: Store) -> "Baselines":
        ratings = store.manifest.ratings
        count, total = store.item_statistics()
        mean = np.full(len(count), ratings.mean)
        labels = TargetTransform(ratings, "bias", count, total, mean, ITEM_DAMPING, USER_DAMPING)
        return cls(labels, TargetTransform.of(store, "bias", use_bayesian_mf=True))

    def predict(self, tasks: TaskTable) -> dict[str, NDArray[np.float64]]:
        """Predicted rating of every query row, users' rows end to end, by baseline.

        Items that the factorisations do not hold get what the store's offsets expect.
        """
        ratings, item = self.labels.ratings, tasks.query_item.values
        _, bias = self.labels.expected(tasks, is_training=False)
        _, expected = self.of_store.expected(tasks, is_training=False)
        of_factors, is_known = self.of_store.factorised(tasks)
        found = {
            "global_mean": np.full(len(item), ratings.mean),
            "item_mean": self.labels.item_mean(item, own=None),
            "bias": bias,
            "factorisation": np.where(is_known, of_factors, expected),
        }
        return {name: np.clip(p, ratings.lowest, ratings.highest) for name, p in found.items()}
