"""Tasks as CSR arrays → padded ``TaskBatch``es, without a loop over users."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from greatmeta_dist.meta.batch import PairPlan, RowSet, SlotTable, TaskBatch, UnpoolPlan

Ints = NDArray[np.int64]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Ragged:
    """Lists of unequal length end to end: row i is ``values[offsets[i] : offsets[i + 1]]``."""

    values: NDArray
    offsets: Ints

    @cached_property
    def lengths(self) -> Ints:
        return self.offsets[1:] - self.offsets[:-1]

    def positions(self, rows: Ints) -> tuple[Ints, Ints]:
        """Where the chosen rows' values stand, end to end, and each row's length."""
        lengths = self.lengths[rows]
        ends = lengths.cumsum()
        shift = self.offsets[rows] - ends + lengths
        return shift.repeat(lengths) + np.arange(ends[-1] if len(ends) else 0), lengths

    def take(self, rows: Ints) -> "Ragged":
        at, lengths = self.positions(rows)
        return Ragged(self.values[at], offsets_of(lengths))


CLICK_SIGNAL = 2.0
"""Brings what a click was not expected to be to about unit size."""


def stable_order(keys: Ints) -> Ints:
    """A stable argsort of keys ≥ 0, sixteen bits at a time: there numpy has a radix sort."""
    order = np.arange(len(keys))
    bits = int(keys.max(initial=0)).bit_length()
    for shift in range(0, bits, 16):
        digit = (keys[order] >> shift).astype(np.uint16)
        order = order[np.argsort(digit, kind="stable")]
    return order


@dataclass(frozen=True)
class Grouped:
    """Values ≥ 0, grouped by what they are."""

    distinct: Ints
    """[K] ascending."""
    place: Ints
    """Where each value stands among ``distinct``."""
    order: Ints
    """The values' places sorted by value, stable."""
    start: Ints
    """[K] where each distinct value's stand in ``order``."""

    @classmethod
    def of(cls, values: Ints) -> "Grouped":
        order = stable_order(values)
        ordered = values[order]
        is_new = np.ones(len(values), bool)
        is_new[1:] = ordered[1:] != ordered[:-1]
        place = np.empty(len(values), np.int64)
        place[order] = np.cumsum(is_new) - 1
        return cls(ordered[is_new], place, order, np.flatnonzero(is_new))


def offsets_of(lengths: Ints) -> Ints:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    lengths.cumsum(out=offsets[1:])
    return offsets


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

    def slots(self, entities: Ints, hide: "Hiding | None") -> "Slots":
        """The chosen entities' values."""
        if not self.fields:
            return Slots(np.empty(0, np.int64), np.zeros((len(entities), 0), np.int64))
        slots = self.all_slots.take(entities)
        return slots if hide is None else slots.hidden(hide, np.array(self.unknown))


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

    def hidden(self, hide: Hiding, unknown: Ints) -> "Slots":
        """The slots with some entities' fields replaced by their unknown row alone."""
        is_hidden = hide.rng.random(self.length.shape) < hide.share
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


def build_batch(
    tasks: TaskTable,
    items: Features,
    chosen: Ints,
    *,
    has_support_gradient: bool,
    has_row_norms: bool,
    prior_rows: float = 0.0,
    dtype: type = np.float32,
    hide: Hiding | None = None,
    balance: Floats | None = None,
    place: Ints | None = None,
) -> TaskBatch:
    """The batch of the chosen tasks, which count ``balance`` [chosen], or 1.

    ``place`` [chosen] is where they stand among the training users.

    ``has_row_norms`` says whether norms of embedding gradients will be asked for, and
    ``has_support_gradient`` whether the query loss reaches the support rows' embeddings, as it does
    where the context is made of them.
    """
    support, query = tasks.support_item.take(chosen), tasks.query_item.take(chosen)
    items_of = Grouped.of(np.concatenate((support.values, query.values)).astype(np.int64))
    item = items_of.distinct if len(items_of.distinct) else np.zeros(1, np.int64)
    num_support = len(support.values)
    user_slots, item_slots = tasks.features.slots(chosen, hide), items.slots(item, hide)
    rows = Grouped.of(np.concatenate((user_slots.row, item_slots.row)))
    user_slots = replace(user_slots, row=rows.place[: len(user_slots.row)])
    item_slots = replace(item_slots, row=rows.place[len(user_slots.row) :])
    weights = (
        user_slots.weight(tasks.features.is_mean, dtype),
        item_slots.weight(items.is_mean, dtype),
    )

    def row_set(
        ragged: Ragged, item_at: Ints, label: Ragged, logit: NDArray | None, prior: float
    ) -> RowSet:
        columns: list[Floats] = [label.take(chosen).values.astype(dtype)]
        if logit is not None:
            columns.append(Ragged(logit, label.offsets).take(chosen).values.astype(dtype))
        return _row_set(ragged.offsets, item_at, columns, len(item), prior)

    places = items_of.place[:num_support], items_of.place[num_support:]
    sets = [
        row_set(support, places[0], tasks.support_label, tasks.support_logit, prior_rows),
        row_set(query, places[1], tasks.query_label, tasks.query_logit, 0.0),
    ]
    pairs = None
    if has_row_norms:
        reached = [sets[1], sets[0]] if has_support_gradient else [sets[1]]
        pairs = _pair_plan((user_slots, item_slots), weights, reached, num_rows=len(rows.distinct))
    return TaskBatch(
        rows=torch.from_numpy(rows.distinct),
        user_slots=_slot_table(user_slots, weights[0]),
        item_slots=_slot_table(item_slots, weights[1]),
        support=sets[0],
        query=sets[1],
        unpool=_unpool_plan((user_slots, item_slots), weights, rows),
        pairs=pairs,
        balance=torch.from_numpy(
            np.ones(len(chosen), dtype) if balance is None else balance.astype(dtype)
        ),
        place=None if place is None else torch.from_numpy(place),
    )


def _slot_table(slots: Slots, weight: Floats) -> SlotTable:
    return SlotTable(*(torch.from_numpy(a) for a in (slots.row, weight, _starts(slots.length))))


def _padded_positions(lengths: Ints) -> tuple[Ints, Ints]:
    """Row and column of every value of a ragged array in its padded form."""
    row = np.arange(len(lengths)).repeat(lengths)
    column = np.arange(len(row)) - (lengths.cumsum() - lengths).repeat(lengths)
    return row, column


def _row_set(
    offsets: Ints, item: Ints, columns: list[Floats], num_items: int, prior_rows: float
) -> RowSet:
    """``columns`` are labels, and of clicks their logits."""
    lengths = offsets[1:] - offsets[:-1]
    owner, column = _padded_positions(lengths)
    shape = (len(lengths), max(1, int(lengths.max(initial=0))))
    items = np.zeros(shape, np.int64)
    items[owner, column] = item
    padded = [np.zeros(shape, values.dtype) for values in columns]
    for values, into in zip(columns, padded, strict=True):
        into[owner, column] = values
    share = np.zeros(shape, columns[0].dtype)
    share[owner, column] = np.repeat(1 / (np.maximum(lengths, 1) + prior_rows), lengths)
    order = stable_order(item)
    by_item = (owner * shape[1] + column)[order]
    item_start = np.searchsorted(item[order], np.arange(num_items))
    label = torch.from_numpy(padded[0])
    logit = torch.from_numpy(padded[1]) if len(padded) > 1 else None
    signal = label if logit is None else CLICK_SIGNAL * (label - torch.sigmoid(logit))
    arrays = (torch.from_numpy(a) for a in (share, by_item, item_start))
    return RowSet(torch.from_numpy(items), label, signal, logit, *arrays)


def _unpool_plan(
    slots: tuple[Slots, Slots], weights: tuple[Floats, Floats], rows: Grouped
) -> UnpoolPlan:
    lengths = np.concatenate([s.length.ravel() for s in slots])
    atom = np.repeat(np.arange(len(lengths)), lengths)[rows.order]
    weight = np.concatenate(weights)[rows.order]
    return UnpoolPlan(*(torch.from_numpy(a) for a in (atom, weight, rows.start)))


def _pair_plan(
    slots: tuple[Slots, Slots],
    weights: tuple[Floats, Floats],
    sets: list[RowSet],
    *,
    num_rows: int,
) -> PairPlan:
    """List every slot the query loss reaches, and group slots into (user, row) pairs."""
    user_slots, item_slots = slots
    num_users, num_user_fields = user_slots.length.shape
    num_item_fields = item_slots.length.shape[1]
    num_fields = num_user_fields + num_item_fields

    # A key is (user, field, row) as one number.
    owner = np.repeat(np.arange(num_users), user_slots.length.sum(1))
    field = user_slots.field
    atoms = [owner * num_user_fields + field]
    keys = [(owner * num_fields + field) * num_rows + user_slots.row]
    item_field = item_slots.field
    item_key = (num_user_fields + item_field) * num_rows + item_slots.row
    places = [np.arange(0)]
    first = num_users * num_user_fields
    for row_set in sets:
        row = np.sort(row_set.by_item.numpy())
        owner = row // row_set.item.shape[1]
        place, count = item_slots.by_entity.positions(row_set.item.numpy().ravel()[row])
        atoms.append(np.repeat(first + row * num_item_fields, count) + item_field[place])
        keys.append(np.repeat(owner * (num_fields * num_rows), count) + item_key[place])
        places.append(place)
        first += row_set.item.numel() * num_item_fields

    pairs = Grouped.of(np.concatenate(keys))
    weight = np.concatenate((weights[0], weights[1][np.concatenate(places)]))
    field_start = np.searchsorted(pairs.distinct // num_rows, np.arange(num_users * num_fields + 1))
    arrays = (np.concatenate(atoms)[pairs.order], weight[pairs.order], pairs.start, field_start)
    return PairPlan(*(torch.from_numpy(a) for a in arrays))


def resplit(tasks: TaskTable, rng: np.random.Generator, *, short_share: float = 0.0) -> TaskTable:
    """The same users with support and query dealt anew at random, as many rows of each.

    ``short_share`` of the users get a shorter support, of a length drawn log-uniformly from 1 row
    to all, so that adapting to few rows is learnt too.
    """
    num_support, num_query = tasks.support_item.lengths, tasks.query_item.lengths
    user = np.arange(len(tasks))
    owner = np.concatenate((np.repeat(user, num_support), np.repeat(user, num_query)))
    item = np.concatenate((tasks.support_item.values, tasks.query_item.values))
    label = np.concatenate((tasks.support_label.values, tasks.query_label.values))
    shuffled = rng.permutation(len(owner))
    order = shuffled[stable_order(owner[shuffled])]
    total = num_support + num_query
    place = np.arange(len(owner)) - np.repeat(np.cumsum(total) - total, total)
    is_query = place < np.repeat(num_query, total)
    kept = num_support
    if short_share:
        drawn = np.exp(rng.random(len(user)) * np.log(np.maximum(num_support, 1)))
        is_short = rng.random(len(user)) < short_share
        kept = np.where(
            is_short, np.minimum(np.ceil(drawn).astype(np.int64), num_support), num_support
        )
    is_support = ~is_query & (place < np.repeat(num_query + kept, total))
    support, query = order[is_support], order[is_query]
    offsets = offsets_of(kept)
    return TaskTable(
        tasks.features,
        Ragged(item[support], offsets),
        Ragged(label[support], offsets),
        Ragged(item[query], tasks.query_item.offsets),
        Ragged(label[query], tasks.query_label.offsets),
    )


def shorten(tasks: TaskTable, length: int, rng: np.random.Generator | None = None) -> TaskTable:
    """The same tasks with at most ``length`` support rows: the first, or random ones."""
    lengths = tasks.support_item.lengths
    order = np.arange(len(tasks.support_item.values))
    if rng is not None:
        shuffled = rng.permutation(len(order))
        owner = np.repeat(np.arange(len(tasks)), lengths)
        order = shuffled[stable_order(owner[shuffled])]
    place = np.arange(len(order)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    chosen = order[place < length]
    offsets = offsets_of(np.minimum(lengths, length))
    return replace(
        tasks,
        support_item=Ragged(tasks.support_item.values[chosen], offsets),
        support_label=Ragged(tasks.support_label.values[chosen], offsets),
    )
