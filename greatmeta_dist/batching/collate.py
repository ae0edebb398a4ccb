"""Tasks as CSR arrays → padded ``TaskBatch``es, without a loop over users.

Shapes, as in ``meta/batch.py``: B users, n rows of a set (padded), I distinct items, U distinct
embedding rows.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from greatmeta_dist.batching.gradient_plans import pair_plan, unpool_plan
from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.data.tasks import FeatureMask, Features, Floats, Slots, TaskTable
from greatmeta_dist.meta.batch import RowSet, SlotTable, TaskBatch
from greatmeta_dist.ragged import Grouped, Ints, Ragged, offsets_of, stable_order

CLICK_CONTEXT_SCALE = 2.0
"""A click's residual times this is of about unit size, as a rating's target is."""


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
    """The batch of the chosen tasks [B], with the features of ``items``, the whole catalogue.

    ``has_support_gradient`` says whether the query loss reaches the support rows' embeddings, as it
    does where the context is made of them; ``has_row_norms`` whether norms of embedding gradients
    will be asked for. ``target_weight`` [B] is how much each user should count (1 where None) and
    ``user_index`` [B] its number among the training users.
    """
    support, query = tasks.support_item.take(chosen), tasks.query_item.take(chosen)
    num_support = len(support.values)
    # Distinct items are looked up and pooled once a batch, however many rows are about them.
    items_of_rows = Grouped.of(np.concatenate((support.values, query.values)).astype(np.int64))
    # A batch without rows still has an item, for its padding to point to.
    item = items_of_rows.distinct if len(items_of_rows.distinct) else np.zeros(1, np.int64)
    slots, rows = _number_rows(
        tasks.features.slots(chosen, feature_mask), items.slots(item, feature_mask)
    )
    weights = (
        slots[0].weight(tasks.features.is_mean, dtype),
        slots[1].weight(items.is_mean, dtype),
    )

    def values_of(values: NDArray | None, offsets: Ints) -> Floats | None:
        """Of the chosen tasks' rows, those that a row-wise array of all tasks has."""
        return None if values is None else Ragged(values, offsets).take(chosen).values.astype(dtype)

    def row_set(
        rows: Ragged, item_index: Ints, label: Ragged, logit: NDArray | None, damping: float
    ) -> RowSet:
        labels: Floats = label.take(chosen).values.astype(dtype)
        logits = values_of(logit, label.offsets)
        return _row_set(rows.offsets, item_index, labels, logits, len(item), damping)

    support_index, query_index = np.split(items_of_rows.index, [num_support])
    support_set = row_set(
        support, support_index, tasks.support_label, tasks.support_logit, support_damping
    )
    query_set = row_set(query, query_index, tasks.query_label, tasks.query_logit, 0.0)
    pairs = None
    if has_row_norms:
        reached = [query_set, support_set] if has_support_gradient else [query_set]
        pairs = pair_plan(slots, weights, reached, num_rows=len(rows.distinct))
    if target_weight is None:
        target_weight = np.ones(len(chosen))
    return TaskBatch(
        rows=torch.from_numpy(rows.distinct),
        user_slots=_slot_table(slots[0], weights[0]),
        item_slots=_slot_table(slots[1], weights[1]),
        support=support_set,
        query=query_set,
        unpool=unpool_plan(slots, weights, rows),
        pairs=pairs,
        target_weight=torch.from_numpy(target_weight.astype(dtype)),
        user_index=None if user_index is None else torch.from_numpy(user_index),
    )


def _number_rows(user_slots: Slots, item_slots: Slots) -> tuple[tuple[Slots, Slots], Grouped]:
    """Slots whose embedding rows are numbered within the batch, 0 to U − 1; and the numbering.

    A step fetches the batch's U rows only, and its tensors are indexed by these numbers.
    """
    rows = Grouped.of(np.concatenate((user_slots.row, item_slots.row)))
    user_rows, item_rows = np.split(rows.index, [len(user_slots.row)])
    return (replace(user_slots, row=user_rows), replace(item_slots, row=item_rows)), rows


def _slot_table(slots: Slots, weight: Floats) -> SlotTable:
    start = offsets_of(slots.length.ravel())[:-1].reshape(slots.length.shape)
    return SlotTable(*(torch.from_numpy(a) for a in (slots.row, weight, start)))


def _padded_positions(lengths: Ints) -> tuple[Ints, Ints]:
    """User and row, in the padded array [B, n], of every value of lists that stand end to end."""
    user = np.arange(len(lengths)).repeat(lengths)
    row = np.arange(len(user)) - (lengths.cumsum() - lengths).repeat(lengths)
    return user, row


def _row_set(
    offsets: Ints,
    item_index: Ints,
    labels: Floats,
    logits: Floats | None,
    num_items: int,
    damping: float,
) -> RowSet:
    """A set of all users, padded; the arrays are of its rows, user by user.

    ``item_index`` says which of the batch's I distinct items each row is about. ``logits`` are
    given for clicks.
    """
    lengths = offsets[1:] - offsets[:-1]
    user, row = _padded_positions(lengths)
    shape = (len(lengths), max(1, int(lengths.max(initial=0))))

    def padded(values: NDArray) -> torch.Tensor:
        array = np.zeros(shape, values.dtype)
        array[user, row] = values
        return torch.from_numpy(array)

    row_weight = np.repeat(1 / (np.maximum(lengths, 1) + damping), lengths).astype(labels.dtype)
    # Gradients of an item's rows are added up in this order: sorted by item, no scatter is needed,
    # and the order, and so the bits, are fixed.
    order = stable_order(item_index)
    by_item = (user * shape[1] + row)[order]
    item_start = np.searchsorted(item_index[order], np.arange(num_items))
    label = padded(labels)
    logit = None if logits is None else padded(logits)
    context_label = label if logit is None else CLICK_CONTEXT_SCALE * (label - torch.sigmoid(logit))
    return RowSet(
        padded(item_index),
        label,
        context_label,
        logit,
        padded(row_weight),
        torch.from_numpy(by_item),
        torch.from_numpy(item_start),
    )


@dataclass(frozen=True)
class Collator:
    """Turns tasks read from a store into padded batches in the model's units."""

    items: Features
    """Of the whole catalogue."""
    has_support_gradient: bool
    """Whether the query loss reaches the support rows' embeddings."""
    has_row_norms: bool
    """Whether norms of embedding gradients will be asked for."""
    target_transform: TargetTransform
    support_damping: float
    """Support rows' worth of damping of a support gradient: ``inner.support_damping``."""
    target_weights: NDArray[np.float64] | None = None
    """[groups] how much a training user of each should count; None where all count 1."""

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

        For training: ``group`` [tasks] and ``user_index`` [tasks] are each user's preference group
        and its number among the training users, ``feature_mask`` hides feature values.
        """
        chosen = np.arange(len(tasks)) if chosen is None else chosen
        target_weight = None
        if group is not None and self.target_weights is not None:
            target_weight = self.target_weights[group[chosen]]
        return build_batch(
            self.target_transform.apply(tasks, is_training=is_training),
            self.items,
            chosen,
            has_support_gradient=self.has_support_gradient,
            has_row_norms=self.has_row_norms,
            support_damping=self.support_damping,
            feature_mask=feature_mask,
            target_weight=target_weight,
            user_index=None if user_index is None else user_index[chosen],
        )
