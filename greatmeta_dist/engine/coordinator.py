"""The coordinator: holds φ, its optimizer and the dense optimizer state (DESIGN.md section 4).

Shapes: B users of the global batch, N numbers of A end to end.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from greatmeta_dist.engine.adam import Adam
from greatmeta_dist.engine.layers import FlatLayers
from greatmeta_dist.meta.gradients import Layers
from greatmeta_dist.meta.scheduler import Scheduler
from greatmeta_dist.meta.user_statistics import UserStatistics
from greatmeta_dist.meta.weightings.base import UserWeighting

GRADIENT_BOUND = 10.0
"""Entries of every outer gradient are clipped to ± this (DESIGN.md section 2, steps 5 and 6)."""


@dataclass(frozen=True)
class StepReport:
    """What the coordinator knows of a step, for the records; all users of the global batch."""

    user_statistics: UserStatistics
    weights: Tensor
    """[B] w*, which moved θ."""
    first_weights: Tensor
    """[B] w, before φ moved."""

    @property
    def is_finite(self) -> Tensor:
        """[B] False for a user whose loss, gradient or factors are not finite: it weighs 0."""
        return self.user_statistics.is_finite


class Coordinator:
    """Computes all users' weights, lets φ learn, and moves A.

    Holds what is needed for that on one worker, rank 0.
    """

    report: StepReport
    """Of the step at hand, from ``compute_weights`` on."""

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
        """``scheduler`` is the weighting's φ. ``outer_rate`` is Adam's rate for A, and
        ``scheduler_rate`` for φ. ``ema_decay`` is d of the running mean of A that predictions use;
        with 0 they use A.
        """
        self.layers = layers
        self._gradient = FlatLayers(layers)
        """A's, of the step at hand."""
        self.ema_decay = ema_decay
        self.averaged_layers = FlatLayers(layers) if ema_decay else layers
        self.weighting = weighting
        self.scheduler = scheduler
        self.optimizer = Adam(layers, outer_rate)
        self.scheduler_optimizer = (
            Adam(dict(scheduler.named_parameters()), scheduler_rate) if scheduler else None
        )

    def compute_weights(self, columns: Tensor) -> Tensor:
        """Weights [B] of all users, from ``UserStatistics.columns`` [B, ·] (section 2, step 4).

        Where the weighting gives ``weight_gradients``, φ first learns from these statistics, and
        the weights are those of the φ it moved. A φ that looks ahead learns in
        ``update_scheduler``.
        """
        has_factors = self.weighting.factor_spec is not None
        users = UserStatistics.from_columns(columns, has_factors=has_factors)
        if self.scheduler is not None:
            self.scheduler.observe(users.filled_factors, users.is_finite)
        self._weights = self.weighting.compute_weights(users, self.scheduler)
        weights = self._weights.detach()
        self.report = StepReport(users, weights, weights)
        # φ learns here and now if the statistics alone tell how.
        weight_gradients = self.weighting.weight_gradients(weights, users)
        return weights if weight_gradients is None else self._step_scheduler(weight_gradients)

    def update_scheduler(self, weight_gradients: Tensor) -> Tensor:
        """One Adam step on φ after a look ahead; the new weights [B] (section 2, step 5).

        ``weight_gradients`` [B] are those of the summed loss by the weights of ``compute_weights``;
        L_φ is the mean over users.
        """
        is_weighed = self.report.user_statistics.is_weighed
        weight_gradients = weight_gradients.masked_fill(~is_weighed, 0) / len(weight_gradients)
        return self._step_scheduler(weight_gradients)

    def _step_scheduler(self, weight_gradients: Tensor) -> Tensor:
        """One Adam step on φ along ∂L_φ/∂w [B]; the weights [B] under the φ it moved."""
        assert self.scheduler is not None
        assert self.scheduler_optimizer is not None
        self.scheduler.zero_grad()
        first = self.report
        # What all users' gradients have in common moves nothing through a softmax. Taking it out
        # first keeps its rounding error out of φ's tiny gradients.
        common = (first.weights * weight_gradients).sum()
        self._weights.backward(weight_gradients - common)
        gradients = {
            name: param.grad
            for name, param in self.scheduler_optimizer.params.items()
            if param.grad is not None
        }
        torch._foreach_clamp_min_(list(gradients.values()), -GRADIENT_BOUND)
        torch._foreach_clamp_max_(list(gradients.values()), GRADIENT_BOUND)
        self.scheduler_optimizer.step(gradients)
        with torch.no_grad():
            weights = self.weighting.compute_weights(first.user_statistics, self.scheduler)
        self.report = StepReport(first.user_statistics, weights, first.weights)
        return weights

    def step_layers(self, gradient: Layers) -> None:
        """One Adam step on A, in place (section 2, step 6). ``average`` comes after it."""
        torch._foreach_copy_(
            list(self._gradient.values()), [gradient[name] for name in self._gradient]
        )
        self._gradient.flat.clamp_(-GRADIENT_BOUND, GRADIENT_BOUND)
        self.optimizer.step(self._gradient)

    def average(self) -> None:
        """Take A, which has moved, into its running mean, in place."""
        if self.ema_decay:
            self.averaged_layers.flat.lerp_(self.layers.flat, 1 - self.ema_decay)
