"""The three gradient-aware factors (DESIGN.md section 2, step 3; paper section on factors)."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from greatmeta_dist.meta.adapt import Tasks
from greatmeta_dist.meta.gradients import MetaGradient, layer_dots, tensor_norms
from greatmeta_dist.meta.model import Recommender

COSINE_EPS = 1e-8
LEAST_LOSS = 1e-6
"""Losses are not told apart below this."""
VISITS_KEPT = 10
"""A user's running mean moves a tenth of the way to the newest visit once it has so many."""

Magnitude = Literal["loss", "norm", "losses"]
"""The query loss after adaptation; the sum of gradient norms (both published); or the logarithms of
the query loss after adaptation and before it."""
FACTOR_KINDS = ("magnitude", "gap", "agreement", "context")


@dataclass(frozen=True)
class FactorSizes:
    """Columns of each kind of factor."""

    magnitude: int
    gap: int
    agreement: int
    context: int = 0

    @classmethod
    def of(cls, model: Recommender, magnitude: Magnitude, *, has_context: bool) -> "FactorSizes":
        num_fields = model.num_user_fields + model.num_item_fields
        return cls(
            2 if magnitude == "losses" else 1,
            model.num_tensors,
            num_fields + model.num_tensors,
            model.context_feature_dim if has_context else 0,
        )

    @property
    def total(self) -> int:
        return self.magnitude + self.gap + self.agreement + self.context


@dataclass(frozen=True)
class Factors:
    """Raw factors of B users; P tensors of A, F embedding fields.

    Tensors of A stand layer by layer, weights (several where a layer stacks them), then bias.
    """

    magnitude: Tensor
    """[B, 1 or 2] how far the user would move the model."""
    gap: Tensor
    """[B, P] does adapting to the support change what the query asks for?"""
    agreement: Tensor
    """[B, F + P] with the batch's mean gradient: dot products for fields, cosines for A."""
    context: Tensor
    """[B, ``context_feature_dim`` or 0] what the support set says of the user's preferences."""

    @classmethod
    def from_columns(cls, columns: Tensor, sizes: FactorSizes) -> "Factors":
        """The inverse of ``columns``."""
        return cls(*columns.split([getattr(sizes, kind) for kind in FACTOR_KINDS], 1))

    def columns(self) -> Tensor:
        """[B, ·]: the hundred or so numbers per user that leave a worker."""
        return torch.cat([getattr(self, kind) for kind in FACTOR_KINDS], 1)

    def only(self, kinds: Collection[str]) -> "Factors":
        """The same with zeros in place of all other kinds."""
        left_out = [kind for kind in FACTOR_KINDS if kind not in kinds]
        return replace(self, **{k: torch.zeros_like(getattr(self, k)) for k in left_out})


class OwnDots(NamedTuple):
    """Inner products of every user's own gradients, for every tensor of A: [B, P] each."""

    squares: Tensor
    """⟨g_i, g_i⟩"""
    mixed: Tensor
    """⟨g_i, g⁰_i⟩"""
    squares_before: Tensor
    """⟨g⁰_i, g⁰_i⟩"""


def own_dots(tasks: Tasks) -> OwnDots:
    """What ``read_factors`` needs before ḡ is known."""
    assert tasks.unadapted is not None
    return OwnDots(*layer_dots(tasks.adapted.layers, tasks.unadapted))


def read_factors(
    tasks: Tasks,
    own: OwnDots,
    mean: MetaGradient,
    *,
    magnitude: Magnitude,
    has_context: bool = False,
) -> Factors:
    """Read every user's factors from its gradients and ḡ, the global batch's mean gradient."""
    squares, mixed, squares_before = own
    norms = squares.clamp(min=0).sqrt()
    gap = _cosine(mixed, norms, squares_before.clamp(min=0).sqrt())
    dots = tasks.adapted.dot_shared(mean)
    num_fields = dots.shape[1] - norms.shape[1]
    agreement = torch.cat(
        (
            dots[:, :num_fields],
            _cosine(dots[:, num_fields:], norms, tensor_norms(tasks.adapted.layers, mean)),
        ),
        1,
    )
    if magnitude == "loss":
        size = tasks.loss.unsqueeze(1)
    elif magnitude == "losses":
        size = tasks.losses.clamp(min=LEAST_LOSS).log()
    else:
        row_norms = tasks.adapted.rows.squared_norms().clamp(min=0).sqrt()
        size = (row_norms.sum(1) + norms.sum(1)).unsqueeze(1)
    context = tasks.context_features
    if context is None or not has_context:
        context = size.new_empty(len(size), 0)
    return Factors(size, gap, agreement, context)


class FactorAverages:
    """Running means of users' gradient factors: one visit alone says little of a user.

    Holds those of the training users of the lanes hosted here, in their order.
    """

    def __init__(self, num_users: int, sizes: FactorSizes, device: torch.device, *, first: int):
        """``first`` is the first user's place among all."""
        self.first = first
        self.mean = torch.zeros(num_users, sizes.total - sizes.context, device=device)
        self.visits = torch.zeros(num_users, dtype=torch.int32, device=device)
        """[users] up to ``VISITS_KEPT``."""

    def recall(self, place: Tensor, columns: Tensor) -> Tensor:
        """Takes a visit's factors [B, ·] of users at ``place`` [B] in; their means, it included.

        Their context stays the visit's. Means that are not finite are given back so, and not kept.
        """
        at, width = place - self.first, self.mean.shape[1]
        before, visits = self.mean[at], self.visits[at]
        now_visits = (visits + 1).clamp(max=VISITS_KEPT)
        mean = before + (columns[:, :width] - before) / now_visits.unsqueeze(1)
        is_kept = mean.isfinite().all(1)
        self.mean.index_copy_(0, at, torch.where(is_kept.unsqueeze(1), mean, before))
        self.visits.index_copy_(0, at, torch.where(is_kept, now_visits, visits))
        return torch.cat((mean, columns[:, width:]), 1)


def _cosine(dot: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return dot / (left.clamp(min=COSINE_EPS) * right.clamp(min=COSINE_EPS))


def standardise(factors: Factors) -> Factors:
    """What the published schedulers see: magnitude normalised over the batch, others over a user.

    DESIGN.md section 2, step 4: (x − mean)/sqrt(var + 1e-5) over the B magnitudes, biased variance
    as in layer normalisation; (x − mean)/sqrt(unbiased var + 1e-8) over a user's entries.
    """
    magnitude = torch.nn.functional.layer_norm(factors.magnitude, factors.magnitude.shape, eps=1e-5)
    return Factors(
        magnitude, _standardise(factors.gap), _standardise(factors.agreement), factors.context
    )


def _standardise(entries: Tensor) -> Tensor:
    mean = entries.mean(1, keepdim=True)
    variance = entries.var(1, keepdim=True, correction=1)
    return (entries - mean) / (variance + 1e-8).sqrt()
