"""What people would otherwise use: means and offsets (scalar predictions per row)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.tasks.batch import TaskTable
from greatmeta_dist.tasks.store import Store

ITEM_SHRINK = 5.0
USER_SHRINK = 3.0
"""Ratings' worth of prior: an offset is Σ residuals / (n + this)."""

BASELINES = ("global_mean", "item_mean", "bias")


@dataclass(frozen=True)
class Baselines:
    """Mean and item offsets of the training users' ratings."""

    mean: float
    item_offset: NDArray[np.float64]
    """[items]; 0 where training has no rating."""
    lowest: float
    highest: float

    @classmethod
    def of(cls, store: Store) -> "Baselines":
        count, total = store.item_statistics()
        ratings = store.manifest.ratings
        offset = (total - ratings.mean * count) / (count + ITEM_SHRINK)
        return cls(ratings.mean, offset, ratings.lowest, ratings.highest)

    def predict(self, tasks: TaskTable) -> dict[str, NDArray[np.float64]]:
        """Predicted rating of every query row, users' rows end to end, by baseline."""
        item = self.mean + self.item_offset[tasks.query_item.values]
        lengths = tasks.support_item.lengths
        owner = np.repeat(np.arange(len(lengths)), lengths)
        residual = tasks.support_label.values - (
            self.mean + self.item_offset[tasks.support_item.values]
        )
        total = np.bincount(owner, weights=residual, minlength=len(lengths))
        user = np.repeat(total / (lengths + USER_SHRINK), tasks.query_item.lengths)
        found = {
            "global_mean": np.full(len(item), self.mean),
            "item_mean": item,
            "bias": item + user,
        }
        return {name: np.clip(p, self.lowest, self.highest) for name, p in found.items()}
