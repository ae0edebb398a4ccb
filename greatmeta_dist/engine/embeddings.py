"""The embedding rows E: who holds which, and how the rows that a step touches are updated.

Shapes: R rows of the whole table, n rows of a worker's block, U distinct rows of a batch, d
embedding width.
"""

import numpy as np
import torch
from torch import Tensor

BETA_1, BETA_2, EPS = 0.9, 0.999, 1e-8
"""Adam's usual constants."""
ROWS_PER_DRAW = 1 << 20
"""Fresh rows are drawn in runs of this many, each run from a random generator of its own."""


def block_size(num_rows: int, world_size: int) -> int:
    """Rows that each worker holds; the last worker may hold fewer."""
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
    """Rows ``first`` to ``last`` of a fresh, normally distributed table: [last − first, d].

    A row's values do not depend on which rows are drawn with it, so each worker draws its own
    block, and any number of workers start from the same table. The table's first run of rows takes
    its numbers from ``generator``; a later one from a generator seeded by ``generator``'s seed and
    the run's number, so that nobody has to draw the runs before it.
    """
    rows = torch.empty(last - first, width)
    for start in range(0, num_rows, ROWS_PER_DRAW):
        end = min(start + ROWS_PER_DRAW, num_rows)
        if end <= first or start >= last:
            continue
        run = torch.empty(end - start, width)
        run.normal_(std=std, generator=_generator_of(start // ROWS_PER_DRAW, generator))
        a, b = max(start, first), min(end, last)
        rows[a - first : b - first] = run[a - start : b - start]
    return rows


def _generator_of(run: int, generator: torch.Generator) -> torch.Generator:
    """The random generator of a run of fresh rows."""
    if run == 0:
        return generator
    # torch's CPU generator reads the low 32 bits of a seed alone: seeds that differ above these
    # draw the same rows. SeedSequence mixes both numbers into 32 bits.
    mixed = np.random.SeedSequence([generator.initial_seed(), run]).generate_state(1)
    return torch.Generator().manual_seed(int(mixed[0]))


class EmbeddingTable:
    """A worker's block [n, d] of the rows [R, d] of all features, with the optimizer's state.

    ``is_lazy`` says which rows Adam (Kingma and Ba) moves. A lazy update moves and ages only the
    rows that a step touches, so a step costs the same however many rows there are. The other form,
    the authors', is dense: momentum goes on moving the other rows too.

    Predictions use a running mean of each row over steps: mean ← decay·mean + (1 − decay)·row. A
    row that is not touched keeps its value, so after k more steps its mean is
    row + decayᵏ·(mean − row). This is computed when the row is next needed, so only touched rows
    cost work.

    Rows are given by their position in the block: 0 is the block's first row.

    A row's bits must depend on no other row: neither on which rows are touched with it nor on which
    worker holds it. So every operation here works entry by entry and rounds once. A compound one
    (``lerp``, ``addcmul``) may round once or twice, as the library computes an entry in the
    vectorised body of its loop or in the remainder behind it, and a row's position among the
    others would decide which.
    """

    def __init__(
        self,
        weight: Tensor,
        *,
        rate: float,
        is_lazy: bool = True,
        ema_decay: float = 0.0,
        first: int = 0,
        block: int | None = None,
    ):
        """``weight`` [n, d] are the block's rows, which the table keeps and changes in place.

        ``rate`` is Adam's learning rate. ``ema_decay`` is the running mean's decay; with 0
        predictions use the rows themselves. ``first`` is the block's first row in the whole table,
        and ``block`` the rows of each worker's block, which a lone worker need not give.
        """
        self.weight = weight
        self.first, self._block = first, block
        self.rate, self.is_lazy, self.ema_decay = rate, is_lazy, ema_decay
        self.num_steps = 0
        self._first_moment = torch.zeros_like(weight)
        self._second_moment = torch.zeros_like(weight)
        self._mean = weight.clone() if ema_decay else None
        self._mean_step = torch.zeros(len(weight), dtype=torch.int64, device=weight.device)
        """[n] the step after which each row's mean was last computed."""
        self._decay_powers = _powers(ema_decay).to(weight)
        """decayᵏ by k, until it vanishes."""

    def first_row_of(self, rank: int) -> int:
        """The first row of a worker's block, in the whole table."""
        return rank * (len(self.weight) if self._block is None else self._block)

    def lookup(self, rows: Tensor) -> Tensor:
        """The rows as training has them: [U] → [U, d]."""
        return self.weight.index_select(0, rows)

    def lookup_averaged(self, rows: Tensor) -> Tensor:
        """The rows' running means, which predictions use: [U] → [U, d]."""
        weight = self.lookup(rows)
        if self._mean is None:
            return weight
        untouched_steps = self.num_steps - self._mean_step[rows]  # [U]
        decay = self._decay_powers[untouched_steps.clamp(max=len(self._decay_powers) - 1)]  # [U]
        lag = self._mean.index_select(0, rows).sub_(weight)  # [U, d]
        return weight + lag.mul_(decay.unsqueeze(1))

    def extended(self, values: Tensor) -> "EmbeddingTable":
        """For a lone worker's predictions: running means, then ``values`` [k, d]."""
        rows = self.lookup_averaged(torch.arange(len(self.weight), device=self.weight.device))
        return EmbeddingTable(torch.cat([rows, values.to(rows)]), rate=self.rate)

    def update_rows(self, rows: Tensor, gradient: Tensor) -> None:
        """One Adam step, in place, on distinct ascending rows [U] along their gradient [U, d].

        Where the update is not lazy, all rows take it, others than ``rows`` with a zero gradient.
        """
        if not self.is_lazy:
            gradient = torch.zeros_like(self.weight).index_copy_(0, rows, gradient)
            rows = torch.arange(len(self.weight), device=rows.device)
        mean = self.lookup_averaged(rows) if self._mean is not None else None
        self.num_steps += 1
        weight = self.lookup(rows).sub_(self._adam_move(rows, gradient))
        self.weight.index_copy_(0, rows, weight)
        if self._mean is not None and mean is not None:
            mean = weight + mean.sub_(weight).mul_(self.ema_decay)
            self._mean.index_copy_(0, rows, mean)
            self._mean_step.index_fill_(0, rows, self.num_steps)

    def _adam_move(self, rows: Tensor, gradient: Tensor) -> Tensor:
        """Update the moments of rows [U] in place; how far the rows then move [U, d]."""
        first = self._first_moment.index_select(0, rows)
        first = first.add_((gradient - first).mul_(1 - BETA_1))
        second = self._second_moment.index_select(0, rows).mul_(BETA_2)
        second = second.add_((gradient * (1 - BETA_2)).mul_(gradient))
        self._first_moment.index_copy_(0, rows, first)
        self._second_moment.index_copy_(0, rows, second)
        scale = second.sqrt_().div_((1 - BETA_2**self.num_steps) ** 0.5).add_(EPS)
        rate = self.rate / (1 - BETA_1**self.num_steps)
        return first.div_(scale).mul_(rate)

    def overwrite(self, rows: Tensor, values: Tensor) -> None:
        """Set rows [U] of the block, and their running means, to values [U, d], in place."""
        self.weight.index_copy_(0, rows, values)
        if self._mean is not None:
            self._mean.index_copy_(0, rows, values)

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint: rows and what goes with each, [n, ·], and the number of steps."""
        state = {
            "rows": self.weight,
            "first_moment": self._first_moment,
            "second_moment": self._second_moment,
            "num_steps": torch.tensor(self.num_steps),
        }
        if self._mean is not None:
            state |= {"mean": self._mean, "seen": self._mean_step}
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Overwrite rows and all that goes with them by a checkpoint's ``state``."""
        self.num_steps = int(state["num_steps"])
        for name, tensor in self.state().items():
            if tensor.ndim:
                tensor.copy_(state[name])


def _powers(base: float) -> Tensor:
    """1, base, base², … and a last 0, once they are too small to change a float64 sum."""
    powers = [1.0]
    while base > 0 and powers[-1] > 1e-17:
        powers.append(powers[-1] * base)
    return torch.tensor([*powers, 0.0], dtype=torch.float64)
