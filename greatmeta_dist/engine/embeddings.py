"""The embedding rows E, their optimizer state, and which of them a step touches."""

from typing import Literal

import torch
from torch import Tensor

BETA_1, BETA_2, EPS = 0.9, 0.999, 1e-8
"""Adam's usual constants."""
ROWS_PER_DRAW = 1 << 20
"""Fresh rows are drawn in blocks of this many, each from a generator of its own."""


def block_size(num_rows: int, world_size: int) -> int:
    """Rows that each worker holds, the last one perhaps fewer."""
    return -(-num_rows // world_size)


def fresh_rows(
    num_rows: int,
    width: int,
    std: float,
    generator: torch.Generator,
    *,
    first: int,
    last: int,
) -> Tensor:
    """Rows ``first`` to ``last`` of a fresh table [R, d], normal; the same whoever draws them.

    The first block goes on from ``generator``; others have one seeded by it and their number.
    """
    rows = torch.empty(last - first, width)
    for start in range(0, num_rows, ROWS_PER_DRAW):
        end = min(start + ROWS_PER_DRAW, num_rows)
        if end <= first or start >= last:
            continue
        block = torch.empty(end - start, width)
        own = generator
        if start:
            seed = generator.initial_seed() + (start // ROWS_PER_DRAW << 32)
            own = torch.Generator().manual_seed(seed % 2**63)
        block.normal_(std=std, generator=own)
        a, b = max(start, first), min(end, last)
        rows[a - first : b - first] = block[a - start : b - start]
    return rows


class EmbeddingTable:
    """A worker's block [n, d] of all fields' rows [R, d], with Adam on the rows touched, or on all.

    ``lazy`` moves and ages only the rows that a step touches, so a step costs the same however
    many rows there are; ``dense`` is the published form, where momentum goes on moving the others.

    Predictions use a running mean of the rows over steps, mean ← d·mean + (1 − d)·row. A row that
    rests keeps its value, so its mean after k more steps is row + dᵏ(mean − row), and only rows
    touched need work.

    Rows here are counted from the block's first. Every operation on them rounds once an entry, so
    that a row's bits depend on no other row: not on which are touched with it, nor on who holds it.
    """

    def __init__(
        self,
        weight: Tensor,
        *,
        rate: float,
        update: Literal["lazy", "dense"] = "lazy",
        ema_decay: float = 0.0,
        first: int = 0,
        block: int | None = None,
    ):
        """``first`` is the block's first row in the whole table, ``block`` the rows of each worker
        where there are several."""
        self.weight = weight
        self.first, self._block = first, block
        self.rate, self.update, self.ema_decay = rate, update, ema_decay
        self.num_steps = 0
        self._first_moment = torch.zeros_like(weight)
        self._second_moment = torch.zeros_like(weight)
        self._mean = weight.clone() if ema_decay else None
        self._seen = torch.zeros(len(weight), dtype=torch.int64, device=weight.device)
        """[n] the step after which each row's mean was last brought up to date."""
        self._decay = _powers(ema_decay).to(weight)
        """dᵏ by k, until it is nothing."""

    def start_of(self, rank: int) -> int:
        """The first row of a worker's block."""
        return rank * (len(self.weight) if self._block is None else self._block)

    def fetch(self, rows: Tensor) -> Tensor:
        """[U] → [U, d], the rows as training has them."""
        return self.weight.index_select(0, rows)

    def fetch_mean(self, rows: Tensor) -> Tensor:
        """[U] → [U, d], their running means."""
        weight = self.fetch(rows)
        if self._mean is None:
            return weight
        rested = (self.num_steps - self._seen[rows]).clamp(max=len(self._decay) - 1)
        behind = self._mean.index_select(0, rows).sub_(weight)
        return weight + behind.mul_(self._decay[rested].unsqueeze(1))

    def step(self, rows: Tensor, grad: Tensor) -> None:
        """Move by the gradient [U, d] of distinct, ascending rows [U]: Adam (Kingma and Ba)."""
        if self.update == "dense":
            grad = torch.zeros_like(self.weight).index_copy_(0, rows, grad)
            rows = torch.arange(len(self.weight), device=rows.device)
        mean = self.fetch_mean(rows) if self._mean is not None else None
        self.num_steps += 1
        first = self._first_moment.index_select(0, rows)
        first = first.add_((grad - first).mul_(1 - BETA_1))
        second = self._second_moment.index_select(0, rows).mul_(BETA_2)
        second = second.add_((grad * (1 - BETA_2)).mul_(grad))
        self._first_moment.index_copy_(0, rows, first)
        self._second_moment.index_copy_(0, rows, second)
        scale = second.sqrt_().div_((1 - BETA_2**self.num_steps) ** 0.5).add_(EPS)
        rate = self.rate / (1 - BETA_1**self.num_steps)
        weight = self.fetch(rows).sub_(first.div_(scale).mul_(rate))
        self.weight.index_copy_(0, rows, weight)
        if self._mean is not None and mean is not None:
            mean = weight + mean.sub_(weight).mul_(self.ema_decay)
            self._mean.index_copy_(0, rows, mean)
            self._seen.index_fill_(0, rows, self.num_steps)

    def state(self) -> dict[str, Tensor]:
        """Rows and what goes with each, [n, ·], and the number of steps, for a checkpoint."""
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


def _powers(base: float) -> Tensor:
    """1, base, base², … and, once they are below what float64 tells from nothing, 0."""
    powers = [1.0]
    while base > 0 and powers[-1] > 1e-17:
        powers.append(powers[-1] * base)
    return torch.tensor([*powers, 0.0], dtype=torch.float64)
