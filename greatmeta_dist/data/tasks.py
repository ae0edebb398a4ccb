"""Tasks as CSR arrays: users' features, and their support and query sets.

An entity is a user or an item. A slot is one value of one field of one entity; its embedding row
is looked up. M slots in all, entity by entity, and field by field within an entity.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.ragged import Ints, Ragged, concatenate, offsets_of

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class FeatureMask:
    """Random replacement of an entity's values of a field by the field's unknown row.

    Few training values are unknown, and of many fields none, so without it the unknown rows would
    hardly be trained.
    """

    rate: float
    """Share of (entity, field) pairs that are masked."""
    rng: np.random.Generator


@dataclass(frozen=True)
class Features:
    """Features of all entities of one side, as embedding rows."""

    fields: tuple[Ragged, ...]
    """For each field, the embedding rows of each entity's values."""
    is_mean: tuple[bool, ...]
    """For each field, whether several values are averaged (else summed)."""
    unknown: tuple[int, ...]
    """For each field, the embedding row of unknown values."""

    @cached_property
    def all_slots(self) -> "Slots":
        """The slots of every entity; made once, since every batch takes from them."""
        length = np.stack([ragged.lengths for ragged in self.fields], 1)
        start = slot_starts(length)
        row = np.empty(length.sum(), np.int32)
        for f, ragged in enumerate(self.fields):
            shift = start[:, f] - ragged.offsets[:-1]
            # A view of a larger array may start past 0.
            first, last = ragged.offsets[0], ragged.offsets[-1]
            slot = np.repeat(shift, ragged.lengths) + np.arange(first, last)
            row[slot] = ragged.values[first:last]
        return Slots(row, length)

    def slots(self, entities: Ints, feature_mask: FeatureMask | None) -> "Slots":
        """The slots of the chosen entities [n], in their order; some masked if a mask is given."""
        if not self.fields:
            return Slots(np.empty(0, np.int64), np.zeros((len(entities), 0), np.int64))
        slots = self.all_slots.take(entities)
        return slots if feature_mask is None else slots.masked(feature_mask, np.array(self.unknown))


def slot_starts(length: Ints) -> Ints:
    """[entities, fields] index of each field's first slot, from the numbers of slots."""
    return offsets_of(length.ravel())[:-1].reshape(length.shape)


@dataclass(frozen=True)
class Slots:
    """Slots of some entities."""

    row: Ints
    """[M] embedding row of each slot."""
    length: Ints
    """[entities, fields] number of slots."""

    @cached_property
    def by_entity(self) -> Ragged:
        """``row`` as one list for each entity."""
        return Ragged(self.row, offsets_of(self.length.sum(1)))

    @property
    def field(self) -> Ints:
        """[M] field of each slot."""
        num_entities, num_fields = self.length.shape
        return np.repeat(np.tile(np.arange(num_fields), num_entities), self.length.ravel())

    def take(self, entities: Ints) -> "Slots":
        """The slots of the chosen entities [n], in their order."""
        rows = self.by_entity.take(entities).values.astype(np.int64)
        return Slots(rows, self.length[entities])

    def masked(self, feature_mask: FeatureMask, unknown: Ints) -> "Slots":
        """The slots with some (entity, field) pairs masked: one slot, the field's unknown row.

        ``unknown`` [fields] gives the unknown rows.
        """
        is_masked = feature_mask.rng.random(self.length.shape) < feature_mask.rate
        is_kept = ~is_masked.ravel()
        length = np.where(is_masked, 1, self.length)
        row = np.empty(length.sum(), np.int64)
        row[is_kept.repeat(length.ravel())] = self.row[is_kept.repeat(self.length.ravel())]
        row[slot_starts(length)[is_masked]] = np.broadcast_to(unknown, length.shape)[is_masked]
        return Slots(row, length)

    def weight(self, is_mean: tuple[bool, ...], dtype: type) -> Floats:
        """[M] weight of each slot in the pooled embedding: 1 for a sum, 1/length for a mean."""
        weight: Floats = np.where(
            np.array(is_mean, bool), 1 / np.maximum(self.length, 1), 1
        ).astype(dtype)
        return weight.ravel().repeat(self.length.ravel())


@dataclass(frozen=True)
class TaskTable:
    """Tasks of one split: their users' features, and a support and a query list for each task."""

    features: Features
    """Of the users, in the order of the tasks."""
    support_item: Ragged
    """Indices into the catalogue; the rows of the support sets."""
    support_label: Ragged
    """Their ratings, or clicks (0 or 1)."""
    query_item: Ragged
    query_label: Ragged
    support_logit: NDArray | None = None
    query_logit: NDArray | None = None
    """[rows] of clicks: the logit of each row's prior mean, to which the model adds."""

    def __len__(self) -> int:
        return len(self.support_item.offsets) - 1

    def take(self, tasks: Ints) -> "TaskTable":
        """The chosen tasks, in the order asked for; ratings' logits are left behind."""
        features = tuple(field.take(tasks) for field in self.features.fields)
        return TaskTable(
            replace(self.features, fields=features),
            self.support_item.take(tasks),
            self.support_label.take(tasks),
            self.query_item.take(tasks),
            self.query_label.take(tasks),
        )

    @classmethod
    def joined(cls, tables: Sequence["TaskTable"]) -> "TaskTable":
        """The tasks of several tables of ratings, one table after the other."""
        fields = zip(*(table.features.fields for table in tables), strict=True)
        return cls(
            replace(tables[0].features, fields=tuple(map(concatenate, fields))),
            concatenate([table.support_item for table in tables]),
            concatenate([table.support_label for table in tables]),
            concatenate([table.query_item for table in tables]),
            concatenate([table.query_label for table in tables]),
        )

    def asking(self, items: Ints) -> "TaskTable":
        """The same users, each asked about its row of ``items`` [tasks, n]; labels are 0."""
        offsets = np.arange(len(self) + 1) * items.shape[1]
        return replace(
            self,
            query_item=Ragged(items.ravel().astype(np.int32), offsets),
            query_label=Ragged(np.zeros(items.size, np.float32), offsets),
        )
