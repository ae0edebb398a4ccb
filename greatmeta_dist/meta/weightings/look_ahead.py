"""The published schedulers: φ learns which users help, by a look ahead (section 2, steps 4 and 5).

The factors go through a network to one score a user. θ' is where θ would go with these weights, and
φ descends on all users' loss there.
"""

import torch
from torch import Tensor, nn

from greatmeta_dist.meta.factors import Factors, FactorSizes, FactorSpec
from greatmeta_dist.meta.magnitude import PUBLISHED_MAGNITUDES
from greatmeta_dist.meta.scheduler import BatchScale, Scheduler
from greatmeta_dist.meta.user_statistics import UserStatistics
from greatmeta_dist.meta.weightings.base import UserWeighting, scheduled_weights


class _LookAhead(UserWeighting):
    """What both forms share."""

    looks_ahead = True

    @property
    def factor_spec(self) -> FactorSpec:
        return FactorSpec(PUBLISHED_MAGNITUDES[self.magnitude])

    def make_scorer(self, sizes: FactorSizes) -> nn.Module:
        """From ``Factors`` to scores [B]."""
        raise NotImplementedError

    def make_scheduler(self, sizes: FactorSizes) -> Scheduler:
        return Scheduler(
            sizes,
            scale=BatchScale(sizes),
            scorer=self.make_scorer(sizes),
            max_weight_ratio=self.max_weight_ratio,
            visible_factors=self.factors,
        )

    def compute_weights(self, users: UserStatistics, scheduler: Scheduler | None) -> Tensor:
        return scheduled_weights(users, scheduler)


class MlpLookAhead(_LookAhead):
    """The joined factors through an MLP."""

    def make_scorer(self, sizes: FactorSizes) -> nn.Module:
        return MlpScorer(sizes)


class LstmLookAhead(_LookAhead):
    """Each kind of factor through an LSTM, then an MLP."""

    def make_scorer(self, sizes: FactorSizes) -> nn.Module:
        return LstmScorer(sizes)


class MlpScorer(nn.Module):
    """Linear(64, no bias) → ReLU → Linear(64) → Tanh → Linear(1) on the joined factors."""

    def __init__(self, sizes: FactorSizes):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(sizes.total, 64, bias=False),
            nn.ReLU(),
            nn.Linear(64, 64),
            nn.Tanh(),
            nn.Linear(64, 1),
        )

    def forward(self, factors: Factors) -> Tensor:
        return self.mlp(factors.columns()).squeeze(1)


class LstmScorer(nn.Module):
    """A bidirectional LSTM (hidden 10, one time step) per factor kind, then three linear layers."""

    def __init__(self, sizes: FactorSizes):
        super().__init__()
        self.magnitude = nn.LSTM(sizes.magnitude, 10, bidirectional=True)
        self.gap = nn.LSTM(sizes.gap, 10, bidirectional=True)
        self.agreement = nn.LSTM(sizes.agreement, 10, bidirectional=True)
        self.mlp = nn.Sequential(
            nn.Linear(60, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 1)
        )

    def forward(self, factors: Factors) -> Tensor:
        codes = [
            self.magnitude(factors.magnitude.unsqueeze(0))[0],
            self.gap(factors.gap.unsqueeze(0))[0],
            self.agreement(factors.agreement.unsqueeze(0))[0],
        ]
        return self.mlp(torch.cat(codes, -1)[0]).squeeze(1)
