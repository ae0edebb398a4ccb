"""The embedding rows E, their optimizer state, and which of them a step touches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from greatmeta_dist.meta.batch import TaskBatch


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

    Predictions use a running mean of the rows over steps, mean ← d·mean + (1 − d)·row. A row that
    rests keeps its value, so its mean after k more steps is row + dᵏ(mean − row), and only rows
    touched need work.
    """

    def __init__(
        self,
        weight: Tensor,
        *,
        rate: float,
        update: Literal["lazy", "dense"] = "lazy",
        averaging: float = 0.0,
    ):
        self.weight = weight.detach().requires_grad_()
        self.update = update
        self.averaging = averaging
        self.mean = self.weight.detach().clone() if averaging else None
        self.seen = torch.zeros(len(weight), dtype=torch.int64, device=weight.device)
        """[R] the step after which each row's mean was last brought up to date."""
        self.num_steps = torch.zeros((), dtype=torch.int64)
        self.optimizer: torch.optim.Optimizer
        if update == "lazy":
            self.optimizer = torch.optim.SparseAdam([self.weight], lr=rate)
        else:
            self.optimizer = torch.optim.Adam([self.weight], lr=rate)

    def fetch(self, rows: Tensor) -> Tensor:
        """[U] → [U, d], the rows as training has them."""
        return self.weight.detach()[rows]

    def fetch_mean(self, rows: Tensor) -> Tensor:
        """[U] → [U, d], their running means."""
        weight = self.fetch(rows)
        if self.mean is None:
            return weight
        rested = (self.num_steps - self.seen[rows]).to(weight.dtype).unsqueeze(1)
        return weight + self.averaging**rested * (self.mean[rows] - weight)

    def step(self, rows: Tensor, grad: Tensor) -> None:
        """Move by the gradient [U, d] of distinct, ascending rows [U]."""
        sparse = torch.sparse_coo_tensor(
            rows.unsqueeze(0), grad, self.weight.shape, is_coalesced=True, check_invariants=False
        )
        if self.update == "dense":
            rows = torch.arange(len(self.weight), device=rows.device)
        before = self.fetch_mean(rows)
        self.weight.grad = sparse if self.update == "lazy" else sparse.to_dense()
        self.optimizer.step()
        self.weight.grad = None
        self.num_steps += 1
        if self.mean is not None:
            self.mean[rows] = torch.lerp(self.fetch(rows), before, self.averaging)
            self.seen[rows] = self.num_steps.to(rows.device)

    def state(self) -> dict[str, Tensor]:
        """Rows and their means, [R, ·] each, and the number of steps, for a checkpoint."""
        state = {"rows": self.weight.detach(), "num_steps": self.num_steps}
        return state if self.mean is None else {**state, "mean": self.mean, "seen": self.seen}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of ``state``, in place."""
        with torch.no_grad():
            self.weight.copy_(state["rows"])
            self.num_steps.copy_(state["num_steps"])
            if self.mean is not None:
                self.mean.copy_(state["mean"])
                self.seen.copy_(state["seen"])
