"""What a user weighting is: how much every user of a global batch counts in the outer step.

A new weighting is one new file with a subclass of ``UserWeighting``, and one line that names it: in
``extensions.WEIGHTINGS``, or, from another package, an entry point. ``scheduler.kind`` then takes
that name; ``scheduler=NAME`` also needs a preset, ``configs/scheduler/NAME.yaml``. An option of its
own needs a field in ``SchedulerConfig``, one here in ``UserWeighting``, and a line in
``engine/weighting.py``. ``loss.py`` is the shortest example; ``balanced.py`` one with a scheduler.

Shapes: B users of the global batch, G preference groups of the training users.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from greatmeta_dist.meta.factors import FACTOR_KINDS, FactorSizes, FactorSpec
from greatmeta_dist.meta.scheduler import Scheduler
from greatmeta_dist.meta.user_statistics import UserStatistics

Float64Array = Any
"""A NumPy array of float64. ``Any``, as this folder imports torch alone: arithmetic and the arrays'
own methods need no import, a type would."""


@dataclass(frozen=True)
class GroupStatistics:
    """What training rows say of the preference groups of users."""

    size: Float64Array
    """[G] number of training users; may be 0."""
    difficulty: Float64Array
    """[G] squared error that item means and user offsets leave of the group's ratings, in the mean
    over its users, divided by that of all users."""
    difficulty_error: Float64Array
    """[G] standard error of ``difficulty``."""


@dataclass(frozen=True)
class UserWeighting:
    """How much every user of a global batch counts in the outer step.

    Its fields are options, named as in ``SchedulerConfig``; a weighting heeds those it needs. It
    holds no state: what is learnt is φ, a ``Scheduler``, which the coordinator holds. All workers
    have an equal weighting, and read from it what to compute; only the coordinator asks it for
    weights.
    """

    magnitude: str = "loss"
    factors: tuple[str, ...] = FACTOR_KINDS
    balance_strength: float = 1.0
    worst_fraction: float = 0.2
    max_weight_ratio: float | None = None

    looks_ahead: ClassVar[bool] = False
    """Whether φ learns from the loss at θ', by a second pass (DESIGN.md section 2, step 5)."""

    @property
    def factor_spec(self) -> FactorSpec | None:
        """Which gradient factors it needs; None saves the pass at the unadapted point."""
        return None

    def target_weights(self, groups: GroupStatistics) -> Float64Array | None:
        """How much a user of each group should count: [G], 1 on average over users; None if alike.

        Users carry it along as ``UserStatistics.target_weight``.
        """
        return None

    def describe(self, target_weights: Float64Array | None) -> str | None:
        """What to tell the user of target weights [G] when training starts; None for nothing."""
        return None

    def make_scheduler(self, sizes: FactorSizes) -> Scheduler | None:
        """A fresh φ for factors of these sizes, drawn from torch's generator; None without one."""
        return None

    def compute_weights(self, users: UserStatistics, scheduler: Scheduler | None) -> Tensor:
        """Weights [B] of the users of a global batch, summing to 1; 0 where not ``is_finite``.

        With a scheduler they are a function of φ that autograd can follow. The coordinator asks
        again after φ has learnt.
        """
        raise NotImplementedError

    def weight_gradients(self, weights: Tensor, users: UserStatistics) -> Tensor | None:
        """∂L_φ/∂w [B] at the weights, if the users' statistics tell it; None if φ does not learn,
        or learns by a look ahead."""
        return None


def proportional_weights(score: Tensor, users: UserStatistics) -> Tensor:
    """Weights [B] proportional to scores [B] ≥ 0 of the users who are finite."""
    score = score.masked_fill(~users.is_finite, 0)
    return score / score.sum().clamp(min=torch.finfo(score.dtype).tiny)


def scheduled_weights(users: UserStatistics, scheduler: Scheduler | None) -> Tensor:
    """Weights [B] as φ has them."""
    assert scheduler is not None
    return scheduler(users.filled_factors, users.is_weighed)
