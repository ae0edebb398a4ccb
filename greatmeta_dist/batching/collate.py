"""Tasks as CSR arrays → padded ``TaskBatch``es, without a loop over users."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.data.tasks import FeatureMask, Features, Floats, Slots, TaskTable, _starts
from greatmeta_dist.meta.batch import PairPlan, RowSet, SlotTable, TaskBatch, UnpoolPlan
from greatmeta_dist.ragged import Grouped, Ints, Ragged, stable_order

CLICK_CONTEXT_SCALE = 2.0
"""Brings what a click was not expected to be to about unit size."""


def build_batch(
    tasks: TaskTable,
    items: Features,
    chosen: Ints,
    *,
    has_support_gradient: bool,
    has_row_norms: bool,
    support_damping: float = 0.0,
    dtype: type = np.float32,
    feature_mask: FeatureMask | None = None,
    target_weight: Floats | None = None,
    user_index: Ints | None = None,
) -> TaskBatch:
    """The batch of the chosen tasks, which should count ``target_weight`` [chosen], or 1.

    ``user_index`` [chosen] are their numbers among the training users.

    ``has_row_norms`` says whether norms of embedding gradients will be asked for, and
    ``has_support_gradient`` whether the query loss reaches the support rows' embeddings, as it does
    where the context is made of them.
    """
    support, query = tasks.support_item.take(chosen), tasks.query_item.take(chosen)
    items_of = Grouped.of(np.concatenate((support.values, query.values)).astype(np.int64))
    item = items_of.distinct if len(items_of.distinct) else np.zeros(1, np.int64)
    num_support = len(support.values)
    user_slots, item_slots = (
        tasks.features.slots(chosen, feature_mask),
        items.slots(item, feature_mask),
    )
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
        row_set(support, places[0], tasks.support_label, tasks.support_logit, support_damping),
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
        target_weight=torch.from_numpy(
            np.ones(len(chosen), dtype) if target_weight is None else target_weight.astype(dtype)
        ),
        user_index=None if user_index is None else torch.from_numpy(user_index),
    )


def _slot_table(slots: Slots, weight: Floats) -> SlotTable:
    return SlotTable(*(torch.from_numpy(a) for a in (slots.row, weight, _starts(slots.length))))


def _padded_positions(lengths: Ints) -> tuple[Ints, Ints]:
    """Row and column of every value of a ragged array in its padded form."""
    row = np.arange(len(lengths)).repeat(lengths)
    column = np.arange(len(row)) - (lengths.cumsum() - lengths).repeat(lengths)
    return row, column


def _row_set(
    offsets: Ints, item: Ints, columns: list[Floats], num_items: int, support_damping: float
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
    share[owner, column] = np.repeat(1 / (np.maximum(lengths, 1) + support_damping), lengths)
    order = stable_order(item)
    by_item = (owner * shape[1] + column)[order]
    item_start = np.searchsorted(item[order], np.arange(num_items))
    label = torch.from_numpy(padded[0])
    logit = torch.from_numpy(padded[1]) if len(padded) > 1 else None
    context_label = label if logit is None else CLICK_CONTEXT_SCALE * (label - torch.sigmoid(logit))
    arrays = (torch.from_numpy(a) for a in (share, by_item, item_start))
    return RowSet(torch.from_numpy(items), label, context_label, logit, *arrays)


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


@dataclass(frozen=True)
class Collator:
    """Turns tasks read from a store into padded batches in the model's units."""

    items: Features
    has_support_gradient: bool
    has_row_norms: bool
    target_transform: TargetTransform
    support_damping: float
    target_weights: NDArray[np.float64] | None = None
    """[groups] what a user of each counts in training; None where all count 1."""

    def collate(
        self,
        tasks: TaskTable,
        chosen: NDArray[np.int64] | None = None,
        *,
        is_training: bool = False,
        group: NDArray[np.int32] | None = None,
        user_index: NDArray[np.int64] | None = None,
        feature_mask: FeatureMask | None = None,
    ) -> TaskBatch:
        """The batch of a table's chosen tasks, or of all.

        ``group`` and ``user_index`` [tasks] and ``feature_mask`` are for training.
        """
        chosen = np.arange(len(tasks)) if chosen is None else chosen
        return build_batch(
            self.target_transform.apply(tasks, is_training=is_training),
            self.items,
            chosen,
            has_support_gradient=self.has_support_gradient,
            has_row_norms=self.has_row_norms,
            support_damping=self.support_damping,
            feature_mask=feature_mask,
            target_weight=None
            if group is None or self.target_weights is None
            else self.target_weights[group[chosen]],
            user_index=None if user_index is None else user_index[chosen],
        )
