"""The default: φ learns to tell, from its factors, a user who should count more.

Rare and difficult preference groups of the training users get target weights. φ sees factors (means
over a user's visits, on a scale kept across steps) and the support's context, and learns to predict
the targets from these, by maximum likelihood. So no user counts more for a group that its own
factors do not show, and no second pass is needed.

Shapes: B users of the global batch, G preference groups.
"""

import torch
from torch import Tensor, nn

from greatmeta_dist.meta.factors import Factors, FactorSizes, FactorSpec
from greatmeta_dist.meta.magnitude import LogLosses
from greatmeta_dist.meta.scheduler import RunningScale, Scheduler
from greatmeta_dist.meta.user_statistics import UserStatistics
from greatmeta_dist.meta.weightings.base import (
    Float64Array,
    GroupStatistics,
    UserWeighting,
    scheduled_weights,
)
from greatmeta_dist.meta.weightings.groups import equal_group_weights, filled_sizes

SURE_ERRORS = 3.0
"""Standard errors that a group must be more difficult by to count more."""
FULL_EXCESS = 0.25
"""Share by which a group is surely more difficult when it counts more in full."""


class Balanced(UserWeighting):
    """Weights that predict how much a user's preference group should count."""

    @property
    def factor_spec(self) -> FactorSpec:
        return FactorSpec(LogLosses(), has_context=True, is_averaged=True)

    def target_weights(self, groups: GroupStatistics) -> Float64Array:
        """[G] as ``difficulty_weights``."""
        return difficulty_weights(groups, self.balance_strength)

    def describe(self, target_weights: Float64Array | None) -> str | None:
        if target_weights is None:
            return None
        num = int((target_weights > target_weights.min()).sum())
        return (
            f"{num or 'none'} of {len(target_weights)} preference groups "
            f"{'is' if num == 1 else 'are'} rare and difficult; "
            f"{'their users weigh more' if num else 'all users weigh the same'}"
        )

    def make_scheduler(self, sizes: FactorSizes) -> Scheduler:
        return Scheduler(
            sizes,
            scale=RunningScale(sizes.total),
            scorer=BalancedScorer(sizes),
            max_weight_ratio=self.max_weight_ratio,
            visible_factors=self.factors,
        )

    def compute_weights(self, users: UserStatistics, scheduler: Scheduler | None) -> Tensor:
        return scheduled_weights(users, scheduler)

    def weight_gradients(self, weights: Tensor, users: UserStatistics) -> Tensor:
        return likelihood_weight_gradients(weights, users.target_weight.nan_to_num(0.0))


class BalancedScorer(nn.Module):
    """The published layers with a bias in the first; starts with equal scores."""

    def __init__(self, sizes: FactorSizes):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(sizes.total, 64), nn.ReLU(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
        )
        nn.init.zeros_(self.mlp[-1].weight)  # type: ignore[arg-type]

    def forward(self, factors: Factors) -> Tensor:
        return self.mlp(factors.columns()).squeeze(1)


def difficulty_weights(groups: GroupStatistics, balance_strength: float) -> Float64Array:
    """How much a user of each group counts where rare and difficult groups count more: [G].

    max(1, 1/(G·share))^(``balance_strength`` · e), then 1 on average over the users. e says how far
    a group is more difficult than users are on the whole: 0 up to ``SURE_ERRORS`` standard errors,
    1 from ``FULL_EXCESS`` beyond them. Where no group stands out, all users count 1.
    """
    size = filled_sizes(groups)
    excess = groups.difficulty - 1 - SURE_ERRORS * groups.difficulty_error
    exponent = balance_strength * (excess / FULL_EXCESS).clip(0, 1)
    weights = equal_group_weights(groups).clip(min=1) ** exponent
    return weights * size.sum() / (weights @ size)


def likelihood_weight_gradients(weights: Tensor, target_weight: Tensor) -> Tensor:
    """∂/∂w of −Σ b log w [B], b the distribution proportional to ``target_weight`` [B].

    0 where w is 0. The loss is least at w = b: weights that say, as far as the factors tell, how
    much such a user should count.
    """
    is_weighed = weights > 0
    target_weight = target_weight * is_weighed
    return -target_weight / (target_weight.sum() * torch.where(is_weighed, weights, 1))
