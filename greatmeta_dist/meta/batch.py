"""The tasks of a step, as padded tensors and index plans.

Built off the hot path by ``batching/collate.py``. Every sum over slots or rows that a step takes
runs over a contiguous segment, in an order that is fixed here: so its bits are fixed too.

Shapes, here and in all of this folder: B users of a batch, n rows of a set (padded to the longest
of the batch), I distinct items of a batch, U distinct embedding rows of a batch, F feature fields
(Fu of the user, Fi of the item), d embedding width, D = F·d input width, C context width.

A worker's lanes pass through a step as one ``TaskBatch``. Its users stand lane by lane, as many of
each. Rows and items are numbered lane by lane too, so that an item of two lanes is two items here:
sums over users come out by lane, and the lanes' sums are added elsewhere. Support sets differ in
length: they are cut into *length buckets*, so that short ones are not padded to the longest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class RowSet:
    """Support or query sets of some users, padded to the longest of them, or further."""

    item: Tensor
    """[B, n] which of the batch's distinct items each row is about; 0 where padded."""
    label: Tensor
    """[B, n] rating in the model's units, or click; 0 where padded."""
    context_label: Tensor
    """[B, n] what a row tells the context: a rating's label; a click's residual, which is the label
    less its prior probability."""
    logit: Tensor | None
    """[B, n] of clicks, the logit of the prior probability, to which the model's output is added;
    None for ratings."""
    row_weight: Tensor
    """[B, n] 1/(number of the user's rows + support damping) for a row, 0 for padding: a sum with
    these weights is a mean over the set, shrunk towards 0 where there is damping."""

    @cached_property
    def twice_weight(self) -> Tensor:
        """[B, n] twice ``row_weight``: of a squared error's gradient, in every inner step."""
        return self.row_weight * 2


@dataclass(frozen=True)
class SupportBucket:
    """Users whose support sets are of like length."""

    rows: RowSet
    """Their support sets; B and n are the bucket's."""
    users: Tensor | None
    """[B of the bucket] which of the batch's users they are, ascending; None if all."""

    def take(self, values: Tensor) -> Tensor:
        """Of the batch's values [B, ·], those of the bucket's users."""
        return values if self.users is None else values.index_select(0, self.users)


@dataclass(frozen=True)
class ItemPlan:
    """How what belongs to the rows of all users' sets adds up by item."""

    position: Tensor
    """[rows] where each row, without padding, stands among the padded rows of all buckets, which
    stand end to end; sorted by item."""
    user: Tensor
    """[rows] whose row it is."""
    start: Tensor
    """[I] first of each item's rows; an item may have none."""


@dataclass(frozen=True)
class SlotTable:
    """Which embedding rows make up each entity's features; M slots, by entity and field."""

    row: Tensor
    """[M] position among the batch's distinct embedding rows."""
    weight: Tensor
    """[M] 1 for a sum, 1/length for a mean."""
    start: Tensor
    """[entities, fields] first slot of each field; a field may have none."""


@dataclass(frozen=True)
class UnpoolPlan:
    """How gradients of pooled features add up to gradients of embedding rows; M slots.

    An *atom* is one field of one user or item: users [B, Fu] first, then items [I, Fi].
    """

    atom: Tensor
    """[M] atom of each slot, sorted by embedding row."""
    weight: Tensor
    """[M] pooling weight of each slot."""
    row_start: Tensor
    """[U] first slot of each row."""


@dataclass(frozen=True)
class PairPlan:
    """What per-user norms of embedding gradients need: a user's repeated rows added up first.

    ‖a + b‖ needs a + b: the gradients that one user sends to one embedding row through several
    slots must be added before they are squared. Atoms are numbered users [B, Fu] first, then query
    rows [B, n, Fi], then support rows [B, n, Fi] (these only where the query loss reaches them). A
    *pair* is one embedding row as one user touches it: the sum of all its slots' atoms. M slots,
    Q pairs, sorted by user, field and row.
    """

    atom: Tensor
    """[M] atom of each slot, sorted by pair."""
    weight: Tensor
    """[M] pooling weight of each slot."""
    pair_start: Tensor
    """[Q] first slot of each pair."""
    field_start: Tensor
    """[B·F + 1] first pair of each user's field, and Q."""


@dataclass(frozen=True)
class TaskBatch:
    """The tasks of some lanes in one step, or of some users of one lane."""

    rows: Tensor
    """[U] distinct embedding rows that each lane touches, ascending, lane by lane."""
    rows_per_lane: list[int]
    """How many of them each lane touches. Each lane has as many users."""
    user_slots: SlotTable
    item_slots: SlotTable
    supports: list[SupportBucket]
    """The users' support sets, by length."""
    bucket_position: Tensor | None
    """[B] where each user stands among the users of all buckets, which stand end to end; None if
    there is one bucket."""
    query: RowSet
    support_plan: ItemPlan
    query_plan: ItemPlan
    unpool: UnpoolPlan
    pairs: PairPlan | None
    """None where nobody asks for norms of embedding gradients."""
    target_weight: Tensor
    """[B] how much each user should count for the sake of its preference group; 1 on average over
    the training users. See ``weightings/base.py``."""
    user_index: Tensor | None
    """[B] number of each user among all training users, lane by lane; None outside training."""

    @property
    def num_users(self) -> int:
        return self.query.row_weight.shape[0]

    @property
    def num_lanes(self) -> int:
        """L"""
        return len(self.rows_per_lane)

    def join(self, by_bucket: Sequence[Tensor]) -> Tensor:
        """The batch's values [B, ·], from those of each bucket's users."""
        if self.bucket_position is None:
            return by_bucket[0]
        return torch.cat(list(by_bucket)).index_select(0, self.bucket_position)


@dataclass(frozen=True)
class StepBatch:
    """All batches of a step hosted by one worker, and the embedding rows they touch."""

    batches: list[TaskBatch]
    batches_per_group: list[int]
    """Batches of each group of neighbouring lanes, in their order: one of several lanes; or one or
    more of a lane."""
    group_heights: list[int]
    """log₂ of the number of lanes of each group."""
    rows: Tensor
    """[U] distinct embedding rows of all batches together, ascending."""
    positions: list[Tensor]
    """For each batch, [U of the batch] position of its rows among ``rows``."""
    lane_positions: list[Tensor | None]
    """For each batch, [U of the batch] position of its rows among ``rows`` repeated for each of its
    lanes; None where its rows are ``rows`` itself."""

    @classmethod
    def of(cls, groups: Sequence[Sequence[TaskBatch]]) -> "StepBatch":
        """The step made of the batches of each group of lanes."""
        batches = [batch for group in groups for batch in group]
        rows, *others = [batch.rows for batch in batches]
        if others or batches[0].num_lanes > 1:
            rows = torch.unique(torch.cat([rows, *others]))
        positions = [torch.searchsorted(rows, batch.rows) for batch in batches]
        lane_positions = [
            None
            if len(batch.rows) == len(rows) and batch.num_lanes == 1
            else at + len(rows) * _lane_of_row(batch)
            for batch, at in zip(batches, positions, strict=True)
        ]
        sizes = [len(group) for group in groups]
        heights = [group[0].num_lanes.bit_length() - 1 for group in groups]
        return cls(batches, sizes, heights, rows, positions, lane_positions)


def _lane_of_row(batch: TaskBatch) -> Tensor:
    """[U] which of its lanes each of a batch's rows is of."""
    return torch.arange(batch.num_lanes).repeat_interleave(torch.tensor(batch.rows_per_lane))


def to_device(batch: T, device: torch.device) -> T:
    """A batch on a device: a copy, but on the CPU itself, since batches are made there."""
    if device.type == "cpu":
        return batch
    return _map_tensors(batch, lambda t: t.to(device, non_blocking=True))


def pinned(batch: T) -> T:
    """A copy of a batch in page-locked memory, from which a GPU copies while it computes."""
    return _map_tensors(batch, torch.Tensor.pin_memory)


def _map_tensors(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    """The same nested dataclass with ``fn`` applied to its tensors."""
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, list):
        return [_map_tensors(v, fn) for v in value]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    mapped = {f.name: _map_tensors(getattr(value, f.name), fn) for f in fields(value)}
    return replace(value, **mapped)
