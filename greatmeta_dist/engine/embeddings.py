"""The embedding rows E, their optimizer state, and which of them a step touches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from greatmeta_dist.meta.model import TaskBatch


@dataclass(frozen=True)
class StepRows:
    """The distinct rows of a step's lanes, and where each lane's rows stand among them."""

    rows: Tensor
    """[U] ascending."""
    positions: list[Tensor]
    """For each lane hosted here, [U of the lane] positions in ``rows``."""

    @classmethod
    def of(cls, lanes: Sequence[TaskBatch]) -> "StepRows":
        if len(lanes) == 1:
            return cls(lanes[0].rows, [torch.arange(lanes[0].rows.shape[0])])
        rows = torch.unique(torch.cat([batch.rows for batch in lanes]))
        return cls(rows, [torch.searchsorted(rows, batch.rows) for batch in lanes])


class EmbeddingTable:
    """All fields' rows in one table [R, d], with Adam on the rows touched, or on all of them.

    ``lazy`` moves and ages only the rows that a step touches, so a step costs the same however
    many rows there are; ``dense`` is the published form, where momentum goes on moving the others.
    """

    def __init__(self, weight: Tensor, *, rate: float, update: Literal["lazy", "dense"] = "lazy"):
        self.weight = weight.detach().requires_grad_()
        self.update = update
        self.optimizer: torch.optim.Optimizer
        if update == "lazy":
            self.optimizer = torch.optim.SparseAdam([self.weight], lr=rate)
        else:
            self.optimizer = torch.optim.Adam([self.weight], lr=rate)

    def fetch(self, rows: Tensor) -> Tensor:
        """[U] → [U, d]"""
        return self.weight.detach()[rows]

    def step(self, rows: Tensor, grad: Tensor) -> None:
        """Move by the gradient [U, d] of distinct, ascending rows [U]."""
        sparse = torch.sparse_coo_tensor(
            rows.unsqueeze(0), grad, self.weight.shape, is_coalesced=True, check_invariants=False
        )
        self.weight.grad = sparse if self.update == "lazy" else sparse.to_dense()
        self.optimizer.step()
        self.weight.grad = None
