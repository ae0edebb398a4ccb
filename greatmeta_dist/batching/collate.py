"""Tasks as CSR arrays → padded ``TaskBatch``es, without a loop over users.

Shapes, as in ``meta/batch.py``: B users, n rows of a set (padded), I distinct items, U distinct
embedding rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from greatmeta_dist.batching.gradient_plans import SetRows, item_plan, pair_plan, unpool_plan
from greatmeta_dist.batching.length_buckets import support_buckets
from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.data.tasks import FeatureMask, Features, Floats, Slots, TaskTable, slot_starts
from greatmeta_dist.meta.batch import RowSet, SlotTable, SupportBucket, TaskBatch
from greatmeta_dist.meta.padding import Padding
from greatmeta_dist.ragged import Grouped, Ints, Ragged

CLICK_CONTEXT_SCALE = 2.0
"""A click's residual times this is of about unit size, as a rating's target is."""


@dataclass(frozen=True)
class Layout:
    """How a batch's users [B] are laid out: a function of their lanes and lengths alone."""

    lane: Ints
    """[B] which of the batch's lanes each user is of, ascending; as many users in each."""
    query_rows: int
    """Rows that each query set is padded to."""
    buckets: list[tuple[Ints, int]]
    """Of each length bucket: its users, ascending, and the rows that their support sets are padded
    to."""

    @classmethod
    def plain(cls, num_support: Ints, num_query: Ints) -> "Layout":
        """One lane and one bucket, of users with so many rows [B]."""
        longest = [max(1, int(lengths.max(initial=0))) for lengths in (num_support, num_query)]
        users = np.arange(len(num_support))
        return cls(np.zeros_like(users), longest[1], [(users, longest[0])])

    @classmethod
    def by_length(cls, num_support: Ints, num_query: Ints, padding: Padding) -> "Layout":
        """One lane, in length buckets (``support_buckets``): few are padded to the longest."""
        buckets = support_buckets(num_support, padding)
        return replace(cls.plain(num_support, num_query), buckets=buckets)


def build_batch(
    tasks: TaskTable,
    items: Features,
    chosen: Ints,
    *,
    has_support_gradient: bool,
    has_row_norms: bool,
    support_damping: float = 0.0,
    dtype: type = np.float32,
    feature_masks: Sequence[FeatureMask] = (),
    target_weight: Floats | None = None,
    user_index: Ints | None = None,
    layout: Layout | None = None,
) -> TaskBatch:
    """The batch of the chosen tasks [B], with the features of ``items``, the whole catalogue.

    ``has_support_gradient`` says whether the query loss reaches the support rows' embeddings, as it
    does where the context is made of them; ``has_row_norms`` whether norms of embedding gradients
    will be asked for. ``target_weight`` [B] is how much each user should count (1 where None) and
    ``user_index`` [B] its number among the training users. ``feature_masks`` are those of each
    lane, or none. ``layout`` is ``Layout.plain`` where not given.
    """
    support, query = (
        _Rows.of(item.take(chosen), label.take(chosen), logit, label, chosen, dtype)
        for item, label, logit in (
            (tasks.support_item, tasks.support_label, tasks.support_logit),
            (tasks.query_item, tasks.query_label, tasks.query_logit),
        )
    )
    if layout is None:
        layout = Layout.plain(support.lengths, query.lengths)
    # Distinct items of each lane are looked up and pooled once, however many rows are about them.
    item, item_lane, item_of_row = _number_items((support, query), layout.lane)
    slots = (
        _lane_slots(tasks.features, chosen, layout.lane, feature_masks),
        _lane_slots(items, item, item_lane, feature_masks),
    )
    slots, rows, row, rows_per_lane = _number_rows(slots, (layout.lane, item_lane))
    weights = (
        slots[0].weight(tasks.features.is_mean, dtype),
        slots[1].weight(items.is_mean, dtype),
    )
    support_index, query_index = np.split(item_of_row, [len(support.user)])
    support_sets, support_rows = _padded_sets(
        support, support_index, layout.buckets, support_damping
    )
    every_user = (np.arange(len(chosen)), layout.query_rows)
    (query_set,), query_rows = _padded_sets(query, query_index, [every_user], 0.0)
    pairs = None
    if has_row_norms:
        reached = [query_rows, support_rows] if has_support_gradient else [query_rows]
        pairs = pair_plan(slots, weights, reached, num_rows=len(rows.distinct))
    target_weight = np.ones(len(chosen)) if target_weight is None else target_weight
    bucket_users = [users for users, _ in layout.buckets]
    is_one = len(bucket_users) == 1
    bucket_position = np.argsort(np.concatenate(bucket_users))
    return TaskBatch(
        rows=torch.from_numpy(row),
        rows_per_lane=rows_per_lane,
        user_slots=_slot_table(slots[0], weights[0]),
        item_slots=_slot_table(slots[1], weights[1]),
        supports=[
            SupportBucket(row_set, None if is_one else torch.from_numpy(users))
            for row_set, users in zip(support_sets, bucket_users, strict=True)
        ],
        bucket_position=None if is_one else torch.from_numpy(bucket_position),
        query=query_set,
        support_plan=item_plan(support_rows, num_items=len(item)),
        query_plan=item_plan(query_rows, num_items=len(item)),
        unpool=unpool_plan(slots, weights, rows),
        pairs=pairs,
        target_weight=torch.from_numpy(target_weight.astype(dtype)),
        user_index=None if user_index is None else torch.from_numpy(user_index),
    )


@dataclass(frozen=True)
class _Rows:
    """The rows of all users' support or query sets, user by user."""

    lengths: Ints
    """[B]"""
    user: Ints
    """[rows]"""
    item: Ints
    """[rows] in the catalogue"""
    label: Floats
    logit: Floats | None

    @classmethod
    def of(
        cls,
        item: Ragged,
        label: Ragged,
        logit: NDArray | None,
        all_labels: Ragged,
        chosen: Ints,
        dtype: type,
    ) -> "_Rows":
        """From the chosen users' lists, and the logits of all users' labels."""
        if logit is not None:
            logit = Ragged(logit, all_labels.offsets).take(chosen).values.astype(dtype)
        user = np.arange(len(chosen)).repeat(item.lengths)
        return cls(
            item.lengths, user, item.values.astype(np.int64), label.values.astype(dtype), logit
        )


def _number_items(sets: tuple[_Rows, _Rows], lane: Ints) -> tuple[Ints, Ints, Ints]:
    """Each lane's distinct items, numbered 0 to I − 1, lane by lane; ``lane`` [B] is the users'.

    Returns [I] the items, [I] their lanes, and the numbers of the items of both sets' rows.
    """
    item = np.concatenate([rows.item for rows in sets])
    item_lane = lane[np.concatenate([rows.user for rows in sets])]
    num_items = int(item.max(initial=0)) + 1
    grouped = Grouped.of(item_lane * num_items + item)
    # A batch without rows still has an item, for its padding to point to.
    distinct = grouped.distinct if len(grouped.distinct) else np.zeros(1, np.int64)
    return distinct % num_items, distinct // num_items, grouped.index


def _lane_slots(
    features: Features, entities: Ints, lane: Ints, feature_masks: Sequence[FeatureMask]
) -> Slots:
    """The entities' slots, each lane's masked by a mask of its own."""
    if not feature_masks:
        return features.slots(entities, None)
    lanes = np.split(entities, np.searchsorted(lane, np.arange(1, len(feature_masks))))
    slots = [
        features.slots(of_lane, mask) for of_lane, mask in zip(lanes, feature_masks, strict=True)
    ]
    return Slots(
        np.concatenate([of_lane.row for of_lane in slots]),
        np.concatenate([of_lane.length for of_lane in slots]),
    )


def _number_rows(
    slots: tuple[Slots, Slots], lanes: tuple[Ints, Ints]
) -> tuple[tuple[Slots, Slots], Grouped, Ints, list[int]]:
    """Users' and items' slots with embedding rows numbered 0 to U − 1, lane by lane.

    A step fetches these U rows only, and its tensors are indexed by these numbers. ``lanes`` are
    those of the users and of the items.

    Returns the slots; the numbering; [U] the embedding rows; and how many are of each lane.
    """
    row = np.concatenate([side.row for side in slots]).astype(np.int64)
    row_lane = np.concatenate(
        [lane.repeat(side.length.sum(1)) for side, lane in zip(slots, lanes, strict=True)]
    )
    num_rows = int(row.max(initial=0)) + 1
    grouped = Grouped.of(row_lane * num_rows + row)
    user_rows, item_rows = np.split(grouped.index, [len(slots[0].row)])
    numbered = replace(slots[0], row=user_rows), replace(slots[1], row=item_rows)
    num_lanes = int(lanes[0].max(initial=0)) + 1
    per_lane = np.bincount(grouped.distinct // num_rows, minlength=num_lanes)
    return numbered, grouped, grouped.distinct % num_rows, per_lane.tolist()


def _slot_table(slots: Slots, weight: Floats) -> SlotTable:
    arrays = (slots.row, weight, slot_starts(slots.length))
    return SlotTable(*(torch.from_numpy(array) for array in arrays))


def _padded_sets(
    rows: _Rows, item_index: Ints, buckets: list[tuple[Ints, int]], damping: float
) -> tuple[list[RowSet], SetRows]:
    """The buckets' sets, padded; and where each row stands in them.

    ``item_index`` says which of the batch's I distinct items each row is about.
    """
    row = np.arange(len(rows.user)) - (rows.lengths.cumsum() - rows.lengths).repeat(rows.lengths)
    first = np.empty(len(rows.lengths), np.int64)  # [B] where each user's rows start
    num_padded = 0
    for users, num_rows in buckets:
        first[users] = num_padded + np.arange(len(users)) * num_rows
        num_padded += len(users) * num_rows
    position = first[rows.user] + row
    weight = 1 / (np.maximum(rows.lengths, 1) + damping)

    def padded(values: NDArray) -> list[torch.Tensor]:
        array = np.zeros(num_padded, values.dtype)
        array[position] = values
        sizes = [len(users) * num_rows for users, num_rows in buckets]
        return [
            torch.from_numpy(part.reshape(len(users), num_rows))
            for part, (users, num_rows) in zip(
                np.split(array, np.cumsum(sizes)[:-1]), buckets, strict=True
            )
        ]

    label = padded(rows.label)
    logit = [None] * len(buckets) if rows.logit is None else padded(rows.logit)
    row_weight = padded(weight[rows.user].astype(rows.label.dtype))
    sets = [
        RowSet(*columns[:2], _context_label(*columns[1:3]), *columns[2:])
        for columns in zip(padded(item_index), label, logit, row_weight, strict=True)
    ]
    return sets, SetRows(position, rows.user, item_index, num_padded)


def _context_label(label: torch.Tensor, logit: torch.Tensor | None) -> torch.Tensor:
    """As ``RowSet.context_label``."""
    return label if logit is None else CLICK_CONTEXT_SCALE * (label - torch.sigmoid(logit))


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
        feature_masks: Sequence[FeatureMask] = (),
        layout: Layout | None = None,
    ) -> TaskBatch:
        """The batch of a table's chosen tasks, or of all.

        For training: ``group`` [tasks] and ``user_index`` [tasks] are each user's preference group
        and its number among the training users, ``feature_masks`` hide feature values of each lane,
        ``layout`` is that of the users of several lanes.
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
            feature_masks=feature_masks,
            layout=layout,
            target_weight=target_weight,
            user_index=None if user_index is None else user_index[chosen],
        )
