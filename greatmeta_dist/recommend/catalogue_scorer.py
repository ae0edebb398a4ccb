"""Scores of every item of the catalogue for many users, by matrix products.

The same numbers as ``Scorer.predict`` gives for the items one by one. What depends on the items
alone is computed once, when the scorer is made.

Shapes: U users, I items of the catalogue, Di width of an item's features.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from greatmeta_dist.data.tasks import Features, TaskTable, slot_starts
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.meta.batch import SlotTable
from greatmeta_dist.ragged import Grouped, Ragged

ITEMS_PER_SLICE = 8192
"""Scored at a time: hidden layers of so many items stay in a processor's cache."""


@dataclass(frozen=True)
class CatalogueScorer:
    """A model with the features of all items at hand."""

    scorer: Scorer
    features: Tensor
    """[Di, I]; items stand in columns, which a product with few users reads fastest."""

    @classmethod
    def of(cls, scorer: Scorer) -> "CatalogueScorer":
        """Look up and pool the features of all items."""
        return cls(scorer, _pooled(scorer, scorer.collator.items).T.contiguous())

    @property
    def num_items(self) -> int:
        return self.features.shape[1]

    def scores(self, tasks: TaskTable) -> NDArray[np.float64]:
        """[U, I] predicted rating of every item (of clicks, the chance), after adaptation.

        The query sets of ``tasks`` are not read.
        """
        collator = self.scorer.collator
        networks = self.scorer.worker.adapted_networks(collator.collate(without_queries(tasks)))
        slices = self.features.split(ITEMS_PER_SLICE, 1)
        prediction = torch.cat([networks.predict(items) for items in slices], 1).cpu().numpy()
        rating = collator.target_transform.to_catalogue_rating(tasks, prediction)
        return self.scorer.blend.apply_to_catalogue(tasks, rating)


def without_queries(tasks: TaskTable) -> TaskTable:
    """The same users, asked nothing."""
    none = np.zeros(len(tasks) + 1, np.int64)
    return replace(
        tasks,
        query_item=Ragged(np.empty(0, np.int32), none),
        query_label=Ragged(np.empty(0, np.float32), none),
    )


def _pooled(scorer: Scorer, items: Features) -> Tensor:
    """[I, Di] features of all items."""
    slots = items.all_slots
    rows = Grouped.of(slots.row.astype(np.int64))
    table = SlotTable(
        torch.from_numpy(rows.index),
        torch.from_numpy(slots.weight(items.is_mean, np.float32)),
        torch.from_numpy(slot_starts(slots.length)),
    )
    return scorer.worker.pooled_features(table, torch.from_numpy(rows.distinct))
