"""The coordinator: holds φ, its optimizer and the dense optimizer state (DESIGN.md section 4)."""

import torch
from torch import Tensor

from greatmeta_dist.meta.scheduler import Scheduler

GRADIENT_BOUND = 10.0
"""Entries of every outer gradient are clipped to ± this (DESIGN.md section 2, steps 5 and 6)."""


class Coordinator:
    """Turns the factors of all users into weights, learns to, and moves A."""

    def __init__(
        self,
        layers: dict[str, Tensor],
        scheduler: Scheduler | None,
        *,
        outer_rate: float,
        scheduler_rate: float,
        averaging: float = 0.0,
    ):
        """``averaging`` is d of the running mean of A that predictions use, 0 for A itself."""
        self.layers = layers
        self.averaging = averaging
        self.mean = (
            {name: p.detach().clone() for name, p in layers.items()} if averaging else layers
        )
        self.scheduler = scheduler
        self.optimizer = torch.optim.Adam(list(layers.values()), lr=outer_rate, fused=True)
        self.scheduler_optimizer = (
            torch.optim.Adam(scheduler.parameters(), lr=scheduler_rate, fused=True)
            if scheduler
            else None
        )

    def weigh(self, factors: Tensor) -> Tensor:
        """Weights [users] under the present φ."""
        assert self.scheduler is not None
        self.scheduler.observe(factors)
        self._weights = self.scheduler(factors)
        return self._weights.detach()

    def learn(self, factors: Tensor, slopes: Tensor) -> Tensor:
        """One Adam step on φ along ∂L_φ/∂w [users], at ``weigh``'s weights; the new weights."""
        assert self.scheduler is not None
        assert self.scheduler_optimizer is not None
        self.scheduler_optimizer.zero_grad()
        weights = self._weights
        # A slope common to all users moves nothing through a softmax; taking it out first keeps
        # its rounding error out of φ's tiny gradients.
        (weights * (slopes - (weights.detach() * slopes).sum())).sum().backward()
        torch.nn.utils.clip_grad_value_(self.scheduler.parameters(), GRADIENT_BOUND)
        self.scheduler_optimizer.step()
        with torch.no_grad():
            return self.scheduler(factors)

    def step(self, gradient: dict[str, Tensor]) -> None:
        """One Adam step on A, in place."""
        for name, param in self.layers.items():
            param.grad = gradient[name].clamp(-GRADIENT_BOUND, GRADIENT_BOUND)
        self.optimizer.step()
        if self.averaging:
            for name, param in self.layers.items():
                self.mean[name].lerp_(param, 1 - self.averaging)
