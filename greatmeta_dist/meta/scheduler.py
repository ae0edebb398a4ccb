"""The preference-aware scheduler φ: from the factors of a batch's users to their weights.

A *scale* brings raw factors to unit size, a *scorer* turns them into one score a user, a softmax
over the global batch turns scores into weights (DESIGN.md section 2, step 4). A weighting chooses
scale and scorer; these are in ``weightings/``.

Shapes: B users of the global batch.
"""

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from greatmeta_dist.meta.factors import FACTOR_KINDS, Factors, FactorSizes

SCALE_MOMENTUM = 0.98
"""How much of the running mean and variance of a factor a step keeps."""
SCALE_BOUND = 4.0
"""Factors further than this many deviations from their mean are taken as this far."""


class Scale(Protocol):
    """Brings raw factor columns [B, ·] to unit size; a module."""

    def observe(self, columns: Tensor, is_finite: Tensor | None = None) -> None:
        """Take in a step's columns, of the users where ``is_finite`` [B]; before it scales them."""

    def __call__(self, columns: Tensor) -> Tensor:
        """[B, ·] → [B, ·]"""


class BatchScale(nn.Module):
    """The published scale, made anew for every batch; leaves other kinds of factors as they are.

    (x − mean)/sqrt(var + 1e-5) over the B magnitudes, biased variance as in layer normalisation;
    (x − mean)/sqrt(unbiased var + 1e-8) over a user's gaps, and over its agreements.
    """

    def __init__(self, sizes: FactorSizes):
        super().__init__()
        self.sizes = sizes

    def observe(self, columns: Tensor, is_finite: Tensor | None = None) -> None:
        """Nothing is kept across steps."""

    def forward(self, columns: Tensor) -> Tensor:
        factors = Factors.from_columns(columns, self.sizes)
        magnitude = factors.magnitude
        return replace(
            factors,
            magnitude=nn.functional.layer_norm(magnitude, magnitude.shape, eps=1e-5),
            gap=_standardise_entries(factors.gap),
            agreement=_standardise_entries(factors.agreement),
        ).columns()


def _standardise_entries(entries: Tensor) -> Tensor:
    mean = entries.mean(1, keepdim=True)
    variance = entries.var(1, keepdim=True, correction=1)
    return (entries - mean) / (variance + 1e-8).sqrt()


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

    def observe(self, columns: Tensor, is_finite: Tensor | None = None) -> None:
        """Take a step's columns [B, ·] into mean and variance, of the users where ``is_finite``.

        Each of the first steps counts the same, as in a plain mean. A step without a finite user
        counts nothing.
        """
        is_any = 1 if is_finite is None else is_finite.any().to(self.num_steps)
        self.num_steps += is_any
        momentum = is_any * (1 / self.num_steps.clamp(min=1)).clamp(min=1 - SCALE_MOMENTUM)
        self.mean.lerp_(_mean_over(columns, is_finite), momentum)
        self.variance.lerp_(_mean_over((columns - self.mean).square(), is_finite), momentum)

    def forward(self, columns: Tensor) -> Tensor:
        scaled = (columns - self.mean) / (self.variance.sqrt() + 1e-6)
        return scaled.clamp(-SCALE_BOUND, SCALE_BOUND)


def _mean_over(columns: Tensor, users: Tensor | None) -> Tensor:
    """Mean of columns [B, ·] over the users [B] where True, or over all."""
    if users is None:
        return columns.mean(0)
    return columns.masked_fill(~users.unsqueeze(1), 0).sum(0) / users.sum().clamp(min=1)


class Scheduler(nn.Module):
    """Weights of all users of a global batch: scores of their factors, through one softmax."""

    def __init__(
        self,
        sizes: FactorSizes,
        *,
        scale: Scale,
        scorer: nn.Module,
        max_weight_ratio: float | None = None,
        visible_factors: Collection[str] = FACTOR_KINDS,
    ):
        """``scorer`` maps ``Factors`` to scores [B]; kinds of factors that are not in
        ``visible_factors`` are zeros to it. See ``forward`` for ``max_weight_ratio``."""
        super().__init__()
        self.sizes, self.visible_factors = sizes, visible_factors
        self.max_weight_ratio = max_weight_ratio
        self.scale = scale
        self.scorer = scorer

    def observe(self, columns: Tensor, is_finite: Tensor | None = None) -> None:
        """Take a step's factor columns [B, ·] into the scale; before the step's weights."""
        self.scale.observe(columns, is_finite)

    def forward(self, columns: Tensor, is_weighed: Tensor | None = None) -> Tensor:
        """Weights [B] from raw factor columns [B, ·], summing to 1; 0 where not ``is_weighed`` [B].

        With ``max_weight_ratio`` r no weight exceeds r times another, as scores are squashed into
        ±log(r)/2: the effective sample size 1/Σw² is at least 4r/(1+r)² of the batch.
        """
        factors = Factors.from_columns(self.scale(columns), self.sizes)
        scores = self.scorer(factors.only(self.visible_factors))
        if self.max_weight_ratio is not None:
            bound = math.log(self.max_weight_ratio) / 2
            scores = bound * torch.tanh(scores / bound)
        if is_weighed is not None:
            scores = scores.masked_fill(~is_weighed, -torch.inf)
        return torch.softmax(scores, 0)


def effective_sample_size(weights: Tensor) -> Tensor:
    """1/Σw² of weights that sum to 1."""
    return 1 / weights.square().sum()
