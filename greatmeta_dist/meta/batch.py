"""What the algorithm is given: the tasks of a lane, as padded tensors and index plans.

Built off the hot path by ``tasks/batch.py``. Shapes in this package: B users of a batch, n rows of
a set (padded), I distinct items of a batch, U distinct embedding rows of a batch, F feature fields
(Fu of the user, Fi of the item), d embedding width, D = F·d input width, C context width.
"""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowSet:
    """A support or query set of every user, padded to the longest of the batch."""

    item: Tensor
    """[B, n] which of the batch's distinct items each row is about; 0 where padded."""
    label: Tensor
    """[B, n] rating in the model's units, or click; 0 where padded."""
    mask: Tensor
    """[B, n] 1 for a row, 0 for padding."""

    @property
    def count(self) -> Tensor:
        """[B] rows of each user, at least 1 so that the mean of an empty set is 0."""
        return self.mask.sum(1).clamp(min=1)


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
class GradientPlan:
    """How per-user gradients of feature vectors become per-user gradients of embedding rows.

    An *atom* is the gradient [d] of one field of one user or of one row of a set; atoms are counted
    through users [B, Fu], then query rows [B, n, Fi], then support rows [B, n, Fi] (these only
    where the context is made of the support). A *pair* is one embedding row as one user touches
    it: the sum of all its slots' atoms. M slots, P pairs, sorted by user, field and row; every sum
    runs over a contiguous segment, in an order that is fixed.
    """

    atom: Tensor
    """[M] atom of each slot, sorted by pair."""
    weight: Tensor
    """[M] pooling weight of each slot."""
    pair_start: Tensor
    """[P] first slot of each pair."""
    user: Tensor
    """[P] user of each pair."""
    row: Tensor
    """[P] position among the batch's distinct embedding rows."""
    field_start: Tensor
    """[B·F + 1] first pair of each user's field, and P."""
    by_row: Tensor
    """[P] pairs sorted by row."""
    row_start: Tensor
    """[U] first place in ``by_row`` of each row."""


@dataclass(frozen=True)
class TaskBatch:
    """The tasks one lane contributes to one step."""

    rows: Tensor
    """[U] distinct embedding rows the batch touches, ascending."""
    user_slots: SlotTable
    item_slots: SlotTable
    support: RowSet
    query: RowSet
    plan: GradientPlan

    @property
    def num_users(self) -> int:
        return self.support.mask.shape[0]

    def to(self, device: torch.device) -> "TaskBatch":
        """The batch on another device."""
        return _move(self, device)


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: _move(getattr(value, f.name), device) for f in fields(value)}
        )
    return value
