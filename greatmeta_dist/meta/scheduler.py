"""The preference-aware scheduler φ: from a user's factors to the user's weight.

Both published forms (DESIGN.md section 2, step 4), and ``balanced``, which sees factors on a scale
kept across steps and the support's context besides, and learns to tell the users of preference
groups that should count more. A bound on the ratio of any two weights keeps the effective sample
size 1/Σw² from collapsing.
"""

import math
from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor, nn

from greatmeta_dist.meta.factors import FACTOR_KINDS, Factors, FactorSizes, standardise

SCALE_MEMORY = 0.98
"""How much of the running mean and variance of a factor a step keeps."""
SCALE_BOUND = 4.0
"""Factors further than this many deviations from their mean are taken as this far."""


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


class RunningScale(nn.Module):
    """Every column less its mean, over its deviation, both kept across steps."""

    mean: Tensor
    variance: Tensor
    num_steps: Tensor

    def __init__(self, num_columns: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_columns))
        self.register_buffer("variance", torch.ones(num_columns))
        self.register_buffer("num_steps", torch.zeros(()))

    def observe(self, columns: Tensor, counts: Tensor | None = None) -> None:
        """Take a step's columns [B, ·] into mean and variance, of users where ``counts`` [B]."""
        is_any = 1 if counts is None else counts.any().to(self.num_steps)
        self.num_steps += is_any
        share = is_any * (1 / self.num_steps.clamp(min=1)).clamp(min=1 - SCALE_MEMORY)
        self.mean.lerp_(_mean(columns, counts), share)
        self.variance.lerp_(_mean((columns - self.mean).square(), counts), share)

    def forward(self, columns: Tensor) -> Tensor:
        scaled = (columns - self.mean) / (self.variance.sqrt() + 1e-6)
        return scaled.clamp(-SCALE_BOUND, SCALE_BOUND)


def _mean(columns: Tensor, counts: Tensor | None) -> Tensor:
    if counts is None:
        return columns.mean(0)
    return columns.masked_fill(~counts.unsqueeze(1), 0).sum(0) / counts.sum().clamp(min=1)


SCORERS = {"mlp": MlpScorer, "lstm": LstmScorer, "balanced": BalancedScorer}


class Scheduler(nn.Module):
    """Weights of all users of a global batch: scores of their factors, through one softmax."""

    def __init__(
        self,
        kind: Literal["mlp", "lstm", "balanced"],
        sizes: FactorSizes,
        *,
        max_weight_ratio: float | None = None,
        reads: Collection[str] = FACTOR_KINDS,
    ):
        """``reads`` are the kinds of factors that are not hidden from the scorer."""
        super().__init__()
        self.sizes, self.reads = sizes, reads
        self.max_weight_ratio = max_weight_ratio
        self.scale = RunningScale(sizes.total) if kind == "balanced" else None
        self.scorer = SCORERS[kind](sizes)

    def observe(self, columns: Tensor, counts: Tensor | None = None) -> None:
        """Take a step's factor columns into the scale, where there is one; before its weights."""
        if self.scale is not None:
            self.scale.observe(columns, counts)

    def forward(self, columns: Tensor, counts: Tensor | None = None) -> Tensor:
        """``weigh`` what ``read`` makes of raw factor columns [B, ·]: weights [B]."""
        return self.weigh(self.read(columns), counts)

    def read(self, columns: Tensor) -> Factors:
        """What φ sees of raw factor columns [B, ·] of the global batch; nothing of it is learnt."""
        if self.scale is None:
            factors = standardise(Factors.from_columns(columns, self.sizes))
        else:
            factors = Factors.from_columns(self.scale(columns), self.sizes)
        return factors.only(self.reads)

    def weigh(self, seen: Factors, counts: Tensor | None = None) -> Tensor:
        """Weights [B] of the users of the global batch, summing to 1.

        With ``max_weight_ratio`` r, no weight exceeds r times another, so the effective sample
        size is at least 4r/(1+r)² of the batch. Users where ``counts`` [B] is False weigh 0.
        """
        scores = self.scorer(seen)
        if self.max_weight_ratio is not None:
            bound = math.log(self.max_weight_ratio) / 2
            scores = bound * torch.tanh(scores / bound)
        if counts is not None:
            scores = scores.masked_fill(~counts, -torch.inf)
        return torch.softmax(scores, 0)


def likelihood_weight_gradients(weights: Tensor, balance: Tensor) -> Tensor:
    """∂/∂w of −Σ b log w [B], b the distribution proportional to ``balance`` [B]; 0 where w is 0.

    The loss is least where w = b: weights that say, as far as the factors tell, how much such a
    user should count.
    """
    counts = weights > 0
    balance = balance * counts
    return -balance / (balance.sum() * torch.where(counts, weights, 1))


def effective_sample_size(weights: Tensor) -> Tensor:
    """1/Σw² of weights that sum to 1."""
    return 1 / weights.square().sum()
