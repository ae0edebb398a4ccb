"""The tasks of a step, as padded tensors and index plans.

Built off the hot path by ``batching/collate.py``. Every sum over slots or rows that a step takes
runs over a contiguous segment, in an order that is fixed here: so its bits are fixed too.

Shapes, here and in all of this folder: B users of a batch, n rows of a set (padded to the longest
of the batch), I distinct items of a batch, U distinct embedding rows of a batch, F feature fields
(Fu of the user, Fi of the item), d embedding width, D = F·d input width, C context width.

A *length bucket* is a batch of users with sets of like length: one lane's users are cut into a few,
so that short sets are not padded to the longest. A step handles one ``TaskBatch`` a bucket.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class RowSet:
    """A support or query set of every user, padded to the longest of the batch."""

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
    by_item: Tensor
    """[rows] flat positions b·n + r of the rows, without padding, sorted by item."""
    item_start: Tensor
    """[I] first position in ``by_item`` of each item; an item may have none."""


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
    """The tasks of one length bucket of one lane, in one step."""

    rows: Tensor
    """[U] distinct embedding rows the batch touches, ascending."""
    user_slots: SlotTable
    item_slots: SlotTable
    support: RowSet
    query: RowSet
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
        return self.support.row_weight.shape[0]


@dataclass(frozen=True)
class StepBatch:
    """All length buckets of a step hosted by one worker, and the embedding rows they touch."""

    buckets: list[TaskBatch]
    buckets_per_lane: list[int]
    """Number of buckets of each hosted lane, in their order."""
    rows: Tensor
    """[U] distinct embedding rows of all buckets together, ascending."""
    positions: list[Tensor]
    """For each bucket, [U of the bucket] position of its rows among ``rows``."""

    @classmethod
    def of(cls, lanes: Sequence[Sequence[TaskBatch]]) -> "StepBatch":
        """The step made of each lane's buckets."""
        buckets = [bucket for lane in lanes for bucket in lane]
        if len(buckets) == 1:
            return cls(buckets, [1], buckets[0].rows, [torch.arange(len(buckets[0].rows))])
        rows = torch.unique(torch.cat([bucket.rows for bucket in buckets]))
        positions = [torch.searchsorted(rows, bucket.rows) for bucket in buckets]
        return cls(buckets, [len(lane) for lane in lanes], rows, positions)


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
