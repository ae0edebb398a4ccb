"""Tasks as CSR arrays → padded ``TaskBatch``es, without a loop over users."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from greatmeta_dist.meta.batch import GradientPlan, RowSet, SlotTable, TaskBatch

Ints = NDArray[np.int64]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Ragged:
    """Lists of unequal length end to end: row i is ``values[offsets[i] : offsets[i + 1]]``."""

    values: NDArray
    offsets: Ints

    @property
    def lengths(self) -> Ints:
        return np.diff(self.offsets)

    def positions(self, rows: Ints) -> tuple[Ints, Ints]:
        """Where the chosen rows' values stand, end to end, and each row's length."""
        starts, lengths = self.offsets[rows], self.lengths[rows]
        ends = np.cumsum(lengths)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
        return np.repeat(starts, lengths) + within, lengths

    def take(self, rows: Ints) -> "Ragged":
        at, lengths = self.positions(rows)
        return Ragged(self.values[at], offsets_of(lengths))


def offsets_of(lengths: Ints) -> Ints:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)))


@dataclass(frozen=True)
class Hiding:
    """Replaces some entities' values of a field by its unknown row, so that this one is learnt."""

    share: float
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

    def slots(self, entities: Ints, dtype: type, hide: "Hiding | None") -> "Slots":
        """The chosen entities' values, entity by entity and field by field."""
        picked = [ragged.take(entities) for ragged in self.fields]
        if hide is not None:
            picked = [
                _hidden(ragged, hide.rng.random(len(entities)) < hide.share, unknown)
                for ragged, unknown in zip(picked, self.unknown, strict=True)
            ]
        length = np.zeros((len(entities), len(picked)), np.int64)
        for f, ragged in enumerate(picked):
            length[:, f] = ragged.lengths
        start = offsets_of(length.ravel())
        row = np.empty(start[-1], np.int64)
        weight: Floats = np.ones(start[-1], dtype)
        first = start[:-1].reshape(length.shape)
        for f, (ragged, is_mean) in enumerate(zip(picked, self.is_mean, strict=True)):
            at = np.repeat(first[:, f] - ragged.offsets[:-1], ragged.lengths)
            at += np.arange(len(at))
            row[at] = ragged.values
            if is_mean:
                weight[at] = np.repeat(1 / np.maximum(ragged.lengths, 1), ragged.lengths)
        return Slots(row, weight, first, length)


def _hidden(ragged: Ragged, is_hidden: NDArray[np.bool_], unknown: int) -> Ragged:
    """The lists with the chosen ones replaced by the unknown value alone."""
    kept = ragged.values[~np.repeat(is_hidden, ragged.lengths)]
    offsets = offsets_of(np.where(is_hidden, 1, ragged.lengths))
    values = np.full(offsets[-1], unknown, kept.dtype)
    values[~np.repeat(is_hidden, np.diff(offsets))] = kept
    return Ragged(values, offsets)


@dataclass(frozen=True)
class Slots:
    """Embedding rows of entities, each a (row, weight) slot, by entity and field."""

    row: Ints
    """[M]"""
    weight: Floats
    """[M]"""
    start: Ints
    """[entities, fields] first slot."""
    length: Ints
    """[entities, fields] number of slots."""

    @property
    def field(self) -> Ints:
        """[M] field of each slot."""
        fields = np.broadcast_to(np.arange(self.length.shape[1]), self.length.shape)
        return np.repeat(fields.ravel(), self.length.ravel())

    @property
    def by_entity(self) -> Ragged:
        """The slots' numbers, entity by entity."""
        return Ragged(np.arange(len(self.row)), offsets_of(self.length.sum(1)))


@dataclass(frozen=True)
class TaskTable:
    """Tasks of one store part: users' features, and their support and query sets as CSR."""

    features: Features
    support_item: Ragged
    support_label: Ragged
    query_item: Ragged
    query_label: Ragged

    def __len__(self) -> int:
        return len(self.support_item.offsets) - 1


def build_batch(
    tasks: TaskTable,
    items: Features,
    chosen: Ints,
    *,
    has_support_gradient: bool,
    dtype: type = np.float32,
    hide: Hiding | None = None,
) -> TaskBatch:
    """The batch of the chosen tasks.

    ``has_support_gradient`` says whether the query loss reaches the support rows' embeddings, as
    it does where the context is made of them.
    """
    support = tasks.support_item.take(chosen)
    query = tasks.query_item.take(chosen)
    item, which = np.unique(np.concatenate((support.values, query.values)), return_inverse=True)
    if not len(item):
        item = np.zeros(1, np.int64)
    num_support = len(support.values)
    user_slots = tasks.features.slots(chosen, dtype, hide)
    item_slots = items.slots(item, dtype, hide)
    rows, at = np.unique(np.concatenate((user_slots.row, item_slots.row)), return_inverse=True)
    user_slots = replace(user_slots, row=at[: len(user_slots.row)])
    item_slots = replace(item_slots, row=at[len(user_slots.row) :])
    support_set, support_at = _row_set(
        support.offsets, which[:num_support], tasks.support_label.take(chosen).values.astype(dtype)
    )
    query_set, query_at = _row_set(
        query.offsets, which[num_support:], tasks.query_label.take(chosen).values.astype(dtype)
    )
    sets = [(query_set, query_at)] + ([(support_set, support_at)] if has_support_gradient else [])
    return TaskBatch(
        rows=torch.from_numpy(rows),
        user_slots=_slot_table(user_slots),
        item_slots=_slot_table(item_slots),
        support=support_set,
        query=query_set,
        plan=_gradient_plan(user_slots, item_slots, sets, num_rows=len(rows)),
    )


def _slot_table(slots: Slots) -> SlotTable:
    return SlotTable(*(torch.from_numpy(a) for a in (slots.row, slots.weight, slots.start)))


def _padded_positions(lengths: Ints) -> tuple[Ints, Ints]:
    """Row and column of every value of a ragged array in its padded form."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    column = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return row, column


def _row_set(offsets: Ints, item: Ints, label: Floats) -> tuple[RowSet, tuple[Ints, Ints]]:
    lengths = np.diff(offsets)
    at = _padded_positions(lengths)
    shape = (len(lengths), max(1, int(lengths.max(initial=0))))
    items = np.zeros(shape, np.int64)
    labels = np.zeros(shape, label.dtype)
    share = np.zeros(shape, label.dtype)
    items[at], labels[at], share[at] = item, label, np.repeat(1 / np.maximum(lengths, 1), lengths)
    return RowSet(*(torch.from_numpy(a) for a in (items, labels, share))), at


def _gradient_plan(
    user: Slots, item: Slots, sets: list[tuple[RowSet, tuple[Ints, Ints]]], *, num_rows: int
) -> GradientPlan:
    """List every slot the query loss reaches, and group slots into (user, row) pairs."""
    num_users, num_user_fields = user.length.shape
    num_item_fields = item.length.shape[1]
    num_fields = num_user_fields + num_item_fields
    owner = np.repeat(np.arange(num_users), user.length.sum(1))
    atoms = [owner * num_user_fields + user.field]
    keys = [(owner * num_fields + user.field) * num_rows + user.row]
    weights = [user.weight]
    item_field, item_slots = item.field, item.by_entity
    first = num_users * num_user_fields
    for row_set, (owner, column) in sets:
        length = row_set.item.shape[1]
        slot, count = item_slots.positions(row_set.item.numpy()[owner, column])
        field = item_field[slot]
        atom = first + (owner * length + column) * num_item_fields
        atoms.append(np.repeat(atom, count) + field)
        keys.append(
            (np.repeat(owner * num_fields + num_user_fields, count) + field) * num_rows
            + item.row[slot]
        )
        weights.append(item.weight[slot])
        first += num_users * length * num_item_fields

    key = np.concatenate(keys)
    order = np.argsort(key, kind="stable")
    key = key[order]
    is_first = np.ones(len(key), bool)
    is_first[1:] = key[1:] != key[:-1]
    pair_start = np.flatnonzero(is_first)
    owner_field, row = np.divmod(key[pair_start], num_rows)
    by_row = np.argsort(row, kind="stable")
    return GradientPlan(
        *(
            torch.from_numpy(a)
            for a in (
                np.concatenate(atoms)[order],
                np.concatenate(weights)[order],
                pair_start,
                owner_field // num_fields,
                row,
                np.searchsorted(owner_field, np.arange(num_users * num_fields + 1)),
                by_row,
                np.searchsorted(row[by_row], np.arange(num_rows)),
            )
        )
    )


def resplit(tasks: TaskTable, rng: np.random.Generator) -> TaskTable:
    """The same users with support and query dealt anew at random, as many rows of each."""
    num_support, num_query = tasks.support_item.lengths, tasks.query_item.lengths
    user = np.arange(len(tasks))
    owner = np.concatenate((np.repeat(user, num_support), np.repeat(user, num_query)))
    item = np.concatenate((tasks.support_item.values, tasks.query_item.values))
    label = np.concatenate((tasks.support_label.values, tasks.query_label.values))
    order = np.lexsort((rng.random(len(owner)), owner))
    total = num_support + num_query
    place = np.arange(len(owner)) - np.repeat(np.cumsum(total) - total, total)
    is_query = place < np.repeat(num_query, total)
    support, query = order[~is_query], order[is_query]
    return TaskTable(
        tasks.features,
        Ragged(item[support], tasks.support_item.offsets),
        Ragged(label[support], tasks.support_label.offsets),
        Ragged(item[query], tasks.query_item.offsets),
        Ragged(label[query], tasks.query_label.offsets),
    )
