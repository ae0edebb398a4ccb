"""The coordinator: holds φ, its optimizer and the dense optimizer state (DESIGN.md section 4)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from greatmeta_dist.engine.layers import FlatLayers
from greatmeta_dist.meta.factors import LEAST_LOSS
from greatmeta_dist.meta.scheduler import Scheduler, likelihood_weight_gradients
from greatmeta_dist.meta.step import UserStatistics, UserWeighting

GRADIENT_BOUND = 10.0
"""Entries of every outer gradient are clipped to ± this (DESIGN.md section 2, steps 5 and 6)."""


@dataclass(frozen=True)
class StepReport:
    """What the coordinator knows of a step, for the records; all users of the global batch."""

    said: UserStatistics
    counts: Tensor
    """[users] False for a user whose loss, gradient or factors are not finite: it weighs 0."""
    weights: Tensor
    """[users] w*, which moved θ."""
    first_weights: Tensor
    """[users] w, before φ moved."""


class Coordinator:
    """Turns what is said of all users into weights, learns to, and moves A."""

    report: StepReport
    """Of the step at hand."""

    def __init__(
        self,
        layers: FlatLayers,
        scheduler: Scheduler | None,
        *,
        weighting: UserWeighting,
        outer_rate: float,
        scheduler_rate: float,
        ema_decay: float = 0.0,
    ):
        """``ema_decay`` is d of the running mean of A that predictions use, 0 for A itself."""
        self.layers = layers
        self.ema_decay = ema_decay
        self.mean = FlatLayers(layers) if ema_decay else layers
        self.weighting = weighting
        self.scheduler = scheduler
        self.optimizer = torch.optim.Adam(list(layers.values()), lr=outer_rate, fused=True)
        self.scheduler_optimizer = (
            torch.optim.Adam(scheduler.parameters(), lr=scheduler_rate, fused=True)
            if scheduler
            else None
        )

    def weigh(self, columns: Tensor) -> Tensor:
        """Weights [users] from what is said of each, ``UserStatistics.columns``.

        Where φ learns from the balance of the preference groups, it has learnt from it.
        """
        said = UserStatistics.from_columns(columns, has_scheduler=self.scheduler is not None)
        counts = columns.isfinite().all(1)
        if self.scheduler is None:
            weights = self._fixed_weights(said, counts)
            self.report = StepReport(said, counts, weights, weights)
            return weights
        # Where nobody counts, all gradients are zeros, and any finite weights will do.
        self._counts = counts | ~counts.any()
        factors = _filled(said.factors, counts)
        self.scheduler.observe(factors, counts)
        self._seen = self.scheduler.read(factors)
        self._weights = self.scheduler.weigh(self._seen, self._counts)
        weights = self._weights.detach()
        self.report = StepReport(said, counts, weights, weights)
        if self.weighting == "balanced":
            return self._learn(likelihood_weight_gradients(weights, said.balance.nan_to_num(0.0)))
        return weights

    def learn(self, weight_gradients: Tensor) -> Tensor:
        """One Adam step on φ after a look ahead; the new weights [users].

        ``weight_gradients`` are those of the summed loss along ``weigh``'s weights [users]; L_φ is the mean.
        """
        return self._learn(weight_gradients.masked_fill(~self._counts, 0) / len(weight_gradients))

    def _learn(self, weight_gradients: Tensor) -> Tensor:
        """One Adam step on φ along ∂L_φ/∂w [users]."""
        assert self.scheduler is not None
        assert self.scheduler_optimizer is not None
        self.scheduler_optimizer.zero_grad()
        weights = self._weights
        # A slope common to all users moves nothing through a softmax; taking it out first keeps
        # its rounding error out of φ's tiny gradients.
        weights.backward(weight_gradients - (weights.detach() * weight_gradients).sum())
        torch.nn.utils.clip_grad_value_(self.scheduler.parameters(), GRADIENT_BOUND)
        self.scheduler_optimizer.step()
        with torch.no_grad():
            moved = self.scheduler.weigh(self._seen, self._counts)
        first = self.report
        self.report = StepReport(first.said, first.counts, moved, first.weights)
        return moved

    def _fixed_weights(self, said: UserStatistics, counts: Tensor) -> Tensor:
        """Weights [users] that nothing is learnt for, from the losses or the groups."""
        score = torch.ones_like(said.balance)
        if self.weighting == "loss":
            score = said.losses[:, 0].clamp(min=LEAST_LOSS)
        elif self.weighting == "groups":
            score = said.balance
        score = score.masked_fill(~counts, 0)
        return score / score.sum().clamp(min=torch.finfo(score.dtype).tiny)

    def step(self, gradient: Tensor) -> None:
        """One Adam step on A, in place, along the gradients of its tensors end to end, which it
        overwrites; zeros may follow them. ``average`` is due after it."""
        clipped = gradient.clamp_(-GRADIENT_BOUND, GRADIENT_BOUND)
        for name, own in self.layers.cut(clipped).items():
            self.layers[name].grad = own
        self.optimizer.step()

    def average(self) -> None:
        """Take A, which has moved, into its running mean."""
        if self.ema_decay:
            self.mean.flat.lerp_(self.layers.flat, 1 - self.ema_decay)


def _filled(factors: Tensor, counts: Tensor) -> Tensor:
    """Factors [users, ·] of users who do not count, replaced by the others' mean."""
    known = torch.where(counts.unsqueeze(1), factors, 0)
    mean = known.sum(0) / counts.sum().clamp(min=1)
    return torch.where(counts.unsqueeze(1), factors, mean)
