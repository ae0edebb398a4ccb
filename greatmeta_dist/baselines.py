"""What people would otherwise use: means and offsets (scalar predictions per row)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.tasks.batch import TaskTable
from greatmeta_dist.tasks.lanes import Labels
from greatmeta_dist.tasks.store import Store

ITEM_PRIOR, USER_PRIOR = 5.0, 3.0
"""Ratings' worth of prior that the baselines always have; the model's are the store's."""


@dataclass(frozen=True)
class Baselines:
    """Mean, item means and user offsets as the ``bias`` label takes them off; fixed priors."""

    labels: Labels

    @classmethod
    def of(cls, store: Store) -> "Baselines":
        ratings = store.manifest.ratings
        count, total = store.item_statistics()
        mean = np.full(len(count), ratings.mean)
        return cls(Labels(ratings, "bias", count, total, mean, ITEM_PRIOR, USER_PRIOR))

    def predict(self, tasks: TaskTable) -> dict[str, NDArray[np.float64]]:
        """Predicted rating of every query row, users' rows end to end, by baseline."""
        ratings, item = self.labels.ratings, tasks.query_item.values
        _, bias = self.labels.expected(tasks, is_training=False)
        found = {
            "global_mean": np.full(len(item), ratings.mean),
            "item_mean": self.labels.item_mean(item, own=None),
            "bias": bias,
        }
        return {name: np.clip(p, ratings.lowest, ratings.highest) for name, p in found.items()}
