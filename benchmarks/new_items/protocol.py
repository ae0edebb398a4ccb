"""Who is asked about which new items, and which of their ratings are known.

Every new item of more than 20 ratings is asked about. Its ratings, by anybody, are put in a random
order: the first 20 may be known, all others are asked for. So the rows asked for are the same
however many are known, and nobody is asked about an item that he is known to have rated.

Shapes: U users, n ratings of new items.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.data.store import FeatureSpec, Store
from greatmeta_dist.data.tasks import Features, TaskTable
from greatmeta_dist.priors.base import UserRows
from greatmeta_dist.priors.item_evidence import EvidenceModel, ItemEvidence
from greatmeta_dist.ragged import Ragged, concatenate, join_lists, offsets_of, stable_order

MOST_KNOWN = 20
SCENARIOS = ("item_cold", "both_cold")

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Log:
    """Ratings [n] of users [n] and items [n], by number."""

    user: Ints
    item: Ints
    rating: NDArray[np.float64]

    def where(self, chosen: NDArray) -> "Log":
        return Log(self.user[chosen], self.item[chosen], self.rating[chosen])


@dataclass(frozen=True)
class Draw:
    """One draw of known ratings."""

    tasks: TaskTable
    """The U users, with what is known of them besides, asked about new items."""
    known: Log
    """Ratings of new items that may be known; ``user`` is a position among the U."""
    order: Ints
    """[known] which of its item's ratings each is, 0 to 19."""

    @classmethod
    def of(
        cls, store: Store, spec: FeatureSpec, log: Log, token: list[str], *, seed: int
    ) -> "Draw":
        """From a store with held-out items, and the log: ``token`` are the names of its users."""
        users = [store.split(name, spec) for name in SCENARIOS]
        names = [name for one in users for name in one.user]
        number = {name: k for k, name in enumerate(names)}
        of_token = np.array([number.get(name, -1) for name in token])
        log = Log(of_token[log.user], log.item, log.rating)
        is_new = store.training_rows().item_count == 0
        log = log.where((log.user >= 0) & is_new[log.item])
        count = np.bincount(log.item, minlength=len(is_new))
        log = log.where(count[log.item] > MOST_KNOWN)
        shuffled = log.where(np.random.default_rng([seed, 53]).permutation(len(log.user)))
        by_item = shuffled.where(stable_order(shuffled.item))
        start = np.searchsorted(by_item.item, by_item.item)
        order = np.arange(len(start)) - start
        tasks = _joined([one.tasks for one in users])
        asked = by_item.where(order >= MOST_KNOWN)
        asked = asked.where(stable_order(asked.user))
        offsets = offsets_of(np.bincount(asked.user, minlength=len(names)))
        tasks = replace(
            tasks,
            query_item=Ragged(asked.item.astype(np.int32), offsets),
            query_label=Ragged(asked.rating.astype(np.float32), offsets),
        )
        is_known = order < MOST_KNOWN
        return cls(tasks, by_item.where(is_known), order[is_known])

    def first(self, num_known: int) -> Log:
        """The first ratings of each new item."""
        return self.known.where(self.order < num_known)

    def tasks_knowing(self, num_known: int) -> TaskTable:
        """The tasks; whoever gave one of the first ratings is known for it."""
        known = self.first(num_known)
        known = known.where(stable_order(known.user))
        offsets = offsets_of(np.bincount(known.user, minlength=len(self.tasks)))
        item = Ragged(known.item.astype(np.int32), offsets)
        label = Ragged(known.rating.astype(np.float32), offsets)
        return replace(
            self.tasks,
            support_item=join_lists(self.tasks.support_item, item),
            support_label=join_lists(self.tasks.support_label, label),
        )

    def evidence(self, model: EvidenceModel, num_known: int) -> ItemEvidence:
        """What the first ratings say of the new items."""
        known = self.first(num_known)
        known = known.where(stable_order(known.user))
        rows = UserRows(self.tasks.support_item, self.tasks.support_label.values.astype(np.float64))
        return model.evidence(rows, known.user, known.item, known.rating)


def _joined(tables: list[TaskTable]) -> TaskTable:
    """The users of several tables as one; their queries are left behind."""
    first = tables[0].features
    fields = [concatenate(same) for same in zip(*(t.features.fields for t in tables), strict=True)]
    item = concatenate([t.support_item for t in tables])
    label = concatenate([t.support_label for t in tables])
    none = Ragged(np.empty(0, np.int32), np.zeros(len(item.offsets), np.int64))
    features = Features(tuple(fields), first.is_mean, first.unknown)
    return TaskTable(features, item, label, none, Ragged(np.empty(0, np.float32), none.offsets))
