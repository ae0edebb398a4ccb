"""Tasks as CSR arrays → padded ``TaskBatch``es, without a loop over users."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from greatmeta_dist.meta.model import GradientPlan, RowSet, SlotTable, TaskBatch

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

    def table(
        self, entities: Ints, dtype: type, hide: "Hiding | None"
    ) -> tuple[Ints, Floats, tuple[int, ...]]:
        """Padded rows and weights [entities, slots], and the slots of each field."""
        rows, weights, widths = [], [], []
        for ragged, is_mean, unknown in zip(self.fields, self.is_mean, self.unknown, strict=True):
            picked = ragged.take(entities)
            at = _padded_positions(picked.lengths)
            width = max(1, int(picked.lengths.max(initial=0)))
            row = np.zeros((len(entities), width), np.int64)
            weight: Floats = np.zeros((len(entities), width), dtype)
            row[at] = picked.values
            share = 1 / np.maximum(picked.lengths, 1) if is_mean else np.ones(len(entities))
            weight[at] = np.repeat(share, picked.lengths)
            if hide is not None:
                hidden = hide.rng.random(len(entities)) < hide.share
                row[hidden, 0] = unknown
                weight[hidden] = np.eye(1, width, dtype=dtype)
            rows.append(row)
            weights.append(weight)
            widths.append(width)
        if not rows:
            return np.zeros((len(entities), 0), np.int64), np.zeros((len(entities), 0), dtype), ()
        return np.concatenate(rows, 1), np.concatenate(weights, 1), tuple(widths)


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
    user_row, user_weight, user_widths = tasks.features.table(chosen, dtype, hide)
    item_row, item_weight, item_widths = items.table(item, dtype, hide)
    rows, flat = np.unique(
        np.concatenate((user_row[user_weight > 0], item_row[item_weight > 0])), return_inverse=True
    )
    user_row[user_weight > 0], item_row[item_weight > 0] = np.split(
        flat, [int((user_weight > 0).sum())]
    )
    user_row[user_weight == 0], item_row[item_weight == 0] = 0, 0
    support_set, support_at = _row_set(
        support.offsets, which[:num_support], tasks.support_label.take(chosen).values.astype(dtype)
    )
    query_set, query_at = _row_set(
        query.offsets, which[num_support:], tasks.query_label.take(chosen).values.astype(dtype)
    )
    sets = [(query_set, query_at)] + ([(support_set, support_at)] if has_support_gradient else [])
    return TaskBatch(
        rows=torch.from_numpy(rows),
        user_slots=_slot_table(user_row, user_weight, user_widths),
        item_slots=_slot_table(item_row, item_weight, item_widths),
        support=support_set,
        query=query_set,
        plan=_gradient_plan(
            (user_row, user_weight, user_widths), (item_row, item_weight, item_widths), sets
        ),
    )


def _slot_table(row: Ints, weight: Floats, widths: tuple[int, ...]) -> SlotTable:
    return SlotTable(torch.from_numpy(row), torch.from_numpy(weight), widths)


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
    mask = np.zeros(shape, label.dtype)
    items[at], labels[at], mask[at] = item, label, 1
    return RowSet(*(torch.from_numpy(a) for a in (items, labels, mask))), at


def _gradient_plan(
    user: tuple[Ints, Floats, tuple[int, ...]],
    item: tuple[Ints, Floats, tuple[int, ...]],
    sets: list[tuple[RowSet, tuple[Ints, Ints]]],
) -> GradientPlan:
    """List every slot the query loss reaches, and group slots into (user, row) pairs."""
    num_users, num_user_fields, num_item_fields = len(user[0]), len(user[2]), len(item[2])
    users, atoms, rows, fields, weights = [], [], [], [], []

    def add(owner: Ints, first_atom: Ints, slots: tuple, first_field: int, which: Ints) -> None:
        row, weight, widths = slots
        field = np.repeat(np.arange(len(widths)), widths)
        taken = weight[which] > 0
        atoms.append((first_atom[:, None] + field)[taken])
        users.append(np.broadcast_to(owner[:, None], taken.shape)[taken])
        fields.append(np.broadcast_to(first_field + field, taken.shape)[taken])
        rows.append(row[which][taken])
        weights.append(weight[which][taken])

    everyone = np.arange(num_users)
    add(everyone, everyone * num_user_fields, user, 0, everyone)
    first = num_users * num_user_fields
    for row_set, (owner, column) in sets:
        num_rows = row_set.item.shape[1]
        which = row_set.item.numpy()[owner, column]
        add(
            owner,
            first + (owner * num_rows + column) * num_item_fields,
            item,
            num_user_fields,
            which,
        )
        first += num_users * num_rows * num_item_fields

    num_rows = 1 + max((int(r.max(initial=0)) for r in rows), default=0)
    user_of, row_of, field_of = (np.concatenate(x) for x in (users, rows, fields))
    num_fields = num_user_fields + num_item_fields
    key = (user_of * num_rows + row_of) * num_fields + field_of
    order = np.argsort(key, kind="stable")
    _, first_slot, pair = np.unique(key[order], return_index=True, return_inverse=True)
    head = order[first_slot]

    def tensor(a: NDArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(a))

    return GradientPlan(
        atom=tensor(np.concatenate(atoms)[order]),
        weight=tensor(np.concatenate(weights)[order]),
        pair=tensor(pair),
        user=tensor(user_of[head]),
        row=tensor(row_of[head]),
        field=tensor(field_of[head]),
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
