"""What the algorithm is given: the tasks of a lane, as padded tensors and index plans.

Built off the hot path by ``tasks/batch.py``; every sum over slots or rows that a step takes runs
over a contiguous segment, in an order fixed here. Shapes in this package: B users of a batch, n
rows of a set (padded), I distinct items of a batch, U distinct embedding rows of a batch, F feature
fields (Fu of the user, Fi of the item), d embedding width, D = F·d input width, C context width.
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
    """[B, n] what a rated support says: the label itself; or, of a click, what was not expected."""
    logit: Tensor | None
    """[B, n] of a click, the logit of what was expected, which predictions are added to."""
    row_weight: Tensor
    """[B, n] 1/(rows of the user, and a support's prior rows) for a row, 0 for padding: sums with
    it are means over a set, shrunk where there is a prior."""
    by_item: Tensor
    """[rows] places b·n + r of the rows, without padding, sorted by item."""
    item_start: Tensor
    """[I] first place in ``by_item`` of each item; an item may have none."""


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

    Atoms are counted through users [B, Fu], then query rows [B, n, Fi], then support rows
    [B, n, Fi] (these only where the context is made of the support). A *pair* is one embedding row
    as one user touches it: the sum of all its slots' atoms. M slots, P pairs, sorted by user,
    field and row.
    """

    atom: Tensor
    """[M] atom of each slot, sorted by pair."""
    weight: Tensor
    """[M] pooling weight of each slot."""
    pair_start: Tensor
    """[P] first slot of each pair."""
    field_start: Tensor
    """[B·F + 1] first pair of each user's field, and P."""


@dataclass(frozen=True)
class TaskBatch:
    """The tasks one lane contributes to one step."""

    rows: Tensor
    """[U] distinct embedding rows the batch touches, ascending."""
    user_slots: SlotTable
    item_slots: SlotTable
    support: RowSet
    query: RowSet
    unpool: UnpoolPlan
    pairs: PairPlan | None
    """None where no norms of embedding gradients are asked for."""
    balance: Tensor
    """[B] what each user should count for the sake of its preference group, 1 on average over the
    training users."""
    place: Tensor | None
    """[B] where each user stands among the training users, lane by lane; None outside training."""

    @property
    def num_users(self) -> int:
        return self.support.row_weight.shape[0]


@dataclass(frozen=True)
class StepBatch:
    """All parts of a step hosted here, and the embedding rows they share."""

    parts: list[TaskBatch]
    lanes: list[int]
    """Parts of each lane, in order."""
    rows: Tensor
    """[U] the parts' distinct embedding rows together, ascending."""
    positions: list[Tensor]
    """For each part, [U of the part] where its rows stand among ``rows``."""

    @classmethod
    def of(cls, lanes: Sequence[Sequence[TaskBatch]]) -> "StepBatch":
        """Plan a step of each lane's parts."""
        parts = [part for lane in lanes for part in lane]
        if len(parts) == 1:
            return cls(parts, [1], parts[0].rows, [torch.arange(len(parts[0].rows))])
        rows = torch.unique(torch.cat([part.rows for part in parts]))
        positions = [torch.searchsorted(rows, part.rows) for part in parts]
        return cls(parts, [len(lane) for lane in lanes], rows, positions)


def to_device(batch: T, device: torch.device) -> T:
    """A batch on another device."""
    return _map(batch, lambda t: t.to(device, non_blocking=True))


def pinned(batch: T) -> T:
    """A batch in page-locked memory, from which a GPU copies while it computes."""
    return _map(batch, torch.Tensor.pin_memory)


def _map(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    """The same nested dataclass with ``fn`` applied to its tensors."""
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, list):
        return [_map(v, fn) for v in value]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(value, **{f.name: _map(getattr(value, f.name), fn) for f in fields(value)})
