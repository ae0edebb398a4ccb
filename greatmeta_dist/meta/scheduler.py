"""The preference-aware scheduler φ: from a user's factors to the user's weight.

DESIGN.md section 2, step 4. Both published forms; a bound on the ratio of any two weights keeps
the effective sample size 1/Σw² from collapsing.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from greatmeta_dist.meta.factors import Factors, standardise


class MlpScorer(nn.Module):
    """Linear(64, no bias) → ReLU → Linear(64) → Tanh → Linear(1) on the joined factors."""

    def __init__(self, num_gap: int, num_agreement: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(1 + num_gap + num_agreement, 64, bias=False),
            nn.ReLU(),
            nn.Linear(64, 64),
            nn.Tanh(),
            nn.Linear(64, 1),
        )

    def forward(self, factors: Factors) -> Tensor:
        return self.mlp(factors.columns()).squeeze(1)


class LstmScorer(nn.Module):
    """A bidirectional LSTM (hidden 10, one time step) per factor kind, then three linear layers."""

    def __init__(self, num_gap: int, num_agreement: int):
        super().__init__()
        self.magnitude = nn.LSTM(1, 10, bidirectional=True)
        self.gap = nn.LSTM(num_gap, 10, bidirectional=True)
        self.agreement = nn.LSTM(num_agreement, 10, bidirectional=True)
        self.mlp = nn.Sequential(
            nn.Linear(60, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 1)
        )

    def forward(self, factors: Factors) -> Tensor:
        codes = [
            self.magnitude(factors.magnitude.view(1, -1, 1))[0],
            self.gap(factors.gap.unsqueeze(0))[0],
            self.agreement(factors.agreement.unsqueeze(0))[0],
        ]
        return self.mlp(torch.cat(codes, -1)[0]).squeeze(1)


class Scheduler(nn.Module):
    """Weights of all users of a global batch: scores of their factors, through one softmax."""

    def __init__(
        self,
        kind: Literal["mlp", "lstm"],
        *,
        num_gap: int,
        num_agreement: int,
        max_weight_ratio: float | None = None,
    ):
        super().__init__()
        self.num_gap = num_gap
        self.max_weight_ratio = max_weight_ratio
        self.scorer = (MlpScorer if kind == "mlp" else LstmScorer)(num_gap, num_agreement)

    def forward(self, columns: Tensor) -> Tensor:
        """Raw factor columns [B, ·] of the global batch → weights [B], summing to 1.

        With ``max_weight_ratio`` r, no weight exceeds r times another, so the effective sample
        size is at least 4r/(1+r)² of the batch.
        """
        factors = standardise(Factors.from_columns(columns, num_gap=self.num_gap))
        scores = self.scorer(factors)
        if self.max_weight_ratio is not None:
            bound = math.log(self.max_weight_ratio) / 2
            scores = bound * torch.tanh(scores / bound)
        return torch.softmax(scores, 0)


def effective_sample_size(weights: Tensor) -> Tensor:
    """1/Σw² of weights that sum to 1."""
    return 1 / weights.square().sum()
