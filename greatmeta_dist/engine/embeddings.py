"""The embedding rows E, their optimizer state, and which of them a step touches."""

from typing import Literal

import torch
from torch import Tensor

BETA_1, BETA_2, EPS = 0.9, 0.999, 1e-8
"""Adam's usual constants."""


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
        self.weight = weight
        self.rate, self.update, self.averaging = rate, update, averaging
        self.num_steps = 0
        self._first_moment = torch.zeros_like(weight)
        self._second_moment = torch.zeros_like(weight)
        self._mean = weight.clone() if averaging else None
        self._seen = torch.zeros(len(weight), dtype=torch.int64, device=weight.device)
        """[R] the step after which each row's mean was last brought up to date."""

    def fetch(self, rows: Tensor) -> Tensor:
        """[U] → [U, d], the rows as training has them."""
        return self.weight.index_select(0, rows)

    def fetch_mean(self, rows: Tensor) -> Tensor:
        """[U] → [U, d], their running means."""
        weight = self.fetch(rows)
        if self._mean is None:
            return weight
        rested = (self.num_steps - self._seen[rows]).to(weight.dtype).unsqueeze(1)
        return torch.lerp(weight, self._mean.index_select(0, rows), self.averaging**rested)

    def step(self, rows: Tensor, grad: Tensor) -> None:
        """Move by the gradient [U, d] of distinct, ascending rows [U]: Adam (Kingma and Ba)."""
        if self.update == "dense":
            grad = torch.zeros_like(self.weight).index_copy_(0, rows, grad)
            rows = torch.arange(len(self.weight), device=rows.device)
        mean = self.fetch_mean(rows) if self._mean is not None else None
        self.num_steps += 1
        first = self._first_moment.index_select(0, rows).lerp_(grad, 1 - BETA_1)
        second = self._second_moment.index_select(0, rows).mul_(BETA_2)
        second.addcmul_(grad, grad, value=1 - BETA_2)
        self._first_moment.index_copy_(0, rows, first)
        self._second_moment.index_copy_(0, rows, second)
        scale = second.sqrt_().div_((1 - BETA_2**self.num_steps) ** 0.5).add_(EPS)
        weight = self.fetch(rows)
        weight.addcdiv_(first, scale, value=-self.rate / (1 - BETA_1**self.num_steps))
        self.weight.index_copy_(0, rows, weight)
        if self._mean is not None and mean is not None:
            self._mean.index_copy_(0, rows, torch.lerp(weight, mean, self.averaging))
            self._seen.index_fill_(0, rows, self.num_steps)

    def state(self) -> dict[str, Tensor]:
        """Rows and what goes with each, [R, ·], and the number of steps, for a checkpoint."""
        state = {
            "rows": self.weight,
            "first_moment": self._first_moment,
            "second_moment": self._second_moment,
            "num_steps": torch.tensor(self.num_steps),
        }
        return state if self._mean is None else {**state, "mean": self._mean, "seen": self._seen}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of ``state``, in place."""
        self.num_steps = int(state["num_steps"])
        for name, tensor in self.state().items():
            if tensor.ndim:
                tensor.copy_(state[name])
