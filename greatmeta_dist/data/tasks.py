"""Tasks as CSR arrays: users' features, and their support and query sets."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.ragged import Ints, Ragged, offsets_of

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class FeatureMask:
    """Replaces some entities' values of a field by its unknown row, so that this one is learnt."""

    rate: float
    rng: np.random.Generator


@dataclass(frozen=True)
class Features:
    """Embedding rows of every entity, field by field."""

    fields: tuple[Ragged, ...]
    """For each field, the rows of each entity's values."""
    is_mean: tuple[bool, ...]
    """For each field, whether several values are averaged (else summed)."""
    unknown: tuple[int, ...]
    """For each field, the row of values that training has not seen."""

    @cached_property
    def all_slots(self) -> "Slots":
        """Every entity's values, entity by entity and field by field; made once."""
        length = np.stack([ragged.lengths for ragged in self.fields], 1)
        start = _starts(length)
        row = np.empty(length.sum(), np.int32)
        for f, ragged in enumerate(self.fields):
            shift = start[:, f] - ragged.offsets[:-1]
            place = np.repeat(shift, ragged.lengths) + np.arange(
                ragged.offsets[0], ragged.offsets[-1]
            )
            row[place] = ragged.values[ragged.offsets[0] : ragged.offsets[-1]]
        return Slots(row, length)

    def slots(self, entities: Ints, feature_mask: "FeatureMask | None") -> "Slots":
        """The chosen entities' values."""
        if not self.fields:
            return Slots(np.empty(0, np.int64), np.zeros((len(entities), 0), np.int64))
        slots = self.all_slots.take(entities)
        return slots if feature_mask is None else slots.hidden(feature_mask, np.array(self.unknown))


def _starts(length: Ints) -> Ints:
    """[entities, fields] where each field's first slot stands."""
    return offsets_of(length.ravel())[:-1].reshape(length.shape)


@dataclass(frozen=True)
class Slots:
    """Embedding rows of entities, entity by entity and field by field; M in all."""

    row: Ints
    """[M]"""
    length: Ints
    """[entities, fields] number of slots."""

    @cached_property
    def by_entity(self) -> Ragged:
        """The rows, entity by entity."""
        return Ragged(self.row, offsets_of(self.length.sum(1)))

    @property
    def field(self) -> Ints:
        """[M] field of each slot."""
        num_entities, num_fields = self.length.shape
        return np.repeat(np.tile(np.arange(num_fields), num_entities), self.length.ravel())

    def take(self, entities: Ints) -> "Slots":
        rows = self.by_entity.take(entities).values.astype(np.int64)
        return Slots(rows, self.length[entities])

    def hidden(self, feature_mask: FeatureMask, unknown: Ints) -> "Slots":
        """The slots with some entities' fields replaced by their unknown row alone."""
        is_hidden = feature_mask.rng.random(self.length.shape) < feature_mask.rate
        is_kept = ~is_hidden.ravel()
        length = np.where(is_hidden, 1, self.length)
        row = np.empty(length.sum(), np.int64)
        row[is_kept.repeat(length.ravel())] = self.row[is_kept.repeat(self.length.ravel())]
        row[_starts(length)[is_hidden]] = np.broadcast_to(unknown, length.shape)[is_hidden]
        return Slots(row, length)

    def weight(self, is_mean: tuple[bool, ...], dtype: type) -> Floats:
        """[M] 1 for a sum, 1/length for a mean."""
        share: Floats = np.where(np.array(is_mean, bool), 1 / np.maximum(self.length, 1), 1).astype(
            dtype
        )
        return share.ravel().repeat(self.length.ravel())


@dataclass(frozen=True)
class TaskTable:
    """Tasks of one store part: users' features, and their support and query sets as CSR."""

    features: Features
    support_item: Ragged
    support_label: Ragged
    query_item: Ragged
    query_label: Ragged
    support_logit: NDArray | None = None
    query_logit: NDArray | None = None
    """Of clicks: the logit of what was expected of each row."""

    def __len__(self) -> int:
        return len(self.support_item.offsets) - 1
