"""What the model sees of every item of a catalogue, with repeated values kept once.

An item's features are vectors of its fields, end to end. Its own row is nobody else's, but a genre
or a year is many items'. Of such a field the distinct vectors are kept, and for each item the
number of its own. A product with users' vectors is then made once for each distinct vector and
looked up for each item, which costs a small part of the product over all items.

Shapes: I items, U users, d embedding width, K distinct vectors of a field, Di = fields·d.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from greatmeta_dist.data.tasks import Features, slot_starts
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.meta.batch import SlotTable
from greatmeta_dist.ragged import Grouped, Ragged

MAX_DISTINCT = 0.25
"""A field with more distinct vectors than this share of the items is kept item by item."""


@dataclass(frozen=True)
class ItemField:
    """One field of every item."""

    vector: Tensor
    """[d, K], or [d, I] where ``index`` is None; they stand in columns, which a product with few
    users reads fastest."""
    index: Tensor | None
    """[I] which of the K vectors is each item's."""

    def columns(self, items: Tensor) -> Tensor:
        """[d, n] vectors of items [n]."""
        return self.vector.index_select(1, items if self.index is None else self.index[items])

    def adder(self, users: Tensor) -> Callable[[Tensor, slice], Any]:
        """Adds, in place, inner products of users' vectors [U, d] with a part of the items."""
        index = self.index
        if index is None:
            return lambda total, part: add_products(total, users, self.vector[:, part])
        of_distinct = users @ self.vector
        return lambda total, part: total.add_(of_distinct.index_select(1, index[part]))

    def take(self, items: Tensor) -> "ItemField":
        """The field of some items [n]."""
        if self.index is None:
            return ItemField(self.vector[:, items], None)
        return ItemField(self.vector, self.index[items])

    def total(self) -> Tensor:
        """[d] the sum over all items."""
        if self.index is None:
            return self.vector.sum(1)
        count = self.index.bincount(minlength=self.vector.shape[1])
        return self.vector @ count.to(self.vector.dtype)


@dataclass(frozen=True)
class ItemFeatures:
    """All fields of all items."""

    fields: tuple[ItemField, ...]
    num_items: int

    @classmethod
    def of(cls, scorer: Scorer, num_items: int) -> "ItemFeatures":
        """Look up and pool what the model sees of the scorer's first ``num_items`` items."""
        items = scorer.collator.items
        parts = zip(items.fields, items.is_mean, items.unknown, strict=True)
        first = np.arange(num_items)
        return cls(
            tuple(_item_field(scorer, Features((f.take(first),), (m,), (u,))) for f, m, u in parts),
            num_items,
        )

    def columns(self, items: Tensor) -> Tensor:
        """[Di, n] features of items [n], in columns."""
        return torch.cat([field.columns(items) for field in self.fields])

    def adder(self, users: Tensor) -> Callable[[Tensor, slice], None]:
        """Adds, in place, inner products of users' vectors [U, Di] with a part of the items."""
        widths = [len(field.vector) for field in self.fields]
        shares = zip(self.fields, users.split(widths, 1), strict=True)
        of_fields = [field.adder(share) for field, share in shares]

        def add(total: Tensor, part: slice) -> None:
            for add_field in of_fields:
                add_field(total, part)

        return add

    def take(self, items: Tensor) -> "ItemFeatures":
        """The features of some items [n]."""
        return ItemFeatures(tuple(field.take(items) for field in self.fields), len(items))

    def mean(self) -> Tensor:
        """[Di] the mean item."""
        return torch.cat([field.total() for field in self.fields]) / max(1, self.num_items)


def add_products(total: Tensor, users: Tensor, items: Tensor) -> None:
    """Add inner products of users [U, n] and items [n, I] to ``total`` [U, I], in place."""
    if len(users) == 1:
        # With one user there is one vector, and the library's product of a matrix and a vector
        # takes half the time of its product of two matrices.
        total[0].addmv_(items.mT, users[0])
    else:
        total.addmm_(users, items)


def _item_field(scorer: Scorer, field: Features) -> ItemField:
    """A field, given as features of that field alone."""
    (rows,) = field.fields
    distinct = _distinct_lists(rows)
    if len(distinct.distinct) > MAX_DISTINCT * len(distinct.index):
        return ItemField(_pooled(scorer, field), None)
    first = distinct.order[distinct.start]
    chosen = Features((rows.take(first),), field.is_mean, field.unknown)
    vector = _pooled(scorer, chosen)
    return ItemField(vector, torch.from_numpy(distinct.index.astype(np.int32)).to(vector.device))


def _distinct_lists(lists: Ragged) -> Grouped:
    """The lists grouped by equality of their values, in their order."""
    group = Grouped.of(lists.lengths).index
    for place in range(int(lists.lengths.max(initial=0))):
        rows = np.flatnonzero(lists.lengths > place)
        value = Grouped.of(lists.values[lists.offsets[rows] + place].astype(np.int64))
        # Lists of one group are of one length, and equal so far: group and value part them further.
        key = group[rows] * len(value.distinct) + value.index
        group[rows] = group.max() + 1 + Grouped.of(key).index
    return Grouped.of(group)


def _pooled(scorer: Scorer, items: Features) -> Tensor:
    """[Di, I] features of items, in columns."""
    slots = items.all_slots
    rows = Grouped.of(slots.row.astype(np.int64))
    table = SlotTable(
        torch.from_numpy(rows.index),
        torch.from_numpy(slots.weight(items.is_mean, np.float32)),
        torch.from_numpy(slot_starts(slots.length)),
    )
    return scorer.worker.pooled_features(table, torch.from_numpy(rows.distinct)).T.contiguous()
