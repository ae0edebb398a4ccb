"""The gradient-aware factors of every user (DESIGN.md section 2, step 3).

A *factor* is a number read from a user's gradient; there are four kinds, one field of ``Factors``
each. A new kind takes a field in ``Factors``, before ``context``; one in ``FactorSizes``, and its
number of columns in ``FactorSizes.of``; a line in ``read_factors``; and its name in ``FACTORS`` of
``config/training.py``, which the option ``scheduler.factors`` takes. Then decide what the published
forms do with it. ``BatchScale`` leaves an unknown kind unscaled, ``MlpScorer`` sees every column,
``LstmScorer`` only the three that it names. φ changes its shape, so checkpoints written before no
longer fit.

Shapes: B users, P tensors of A, F embedding fields, U distinct embedding rows of a batch.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from greatmeta_dist.meta.adapt import TaskResults
from greatmeta_dist.meta.gradients import MetaGradient, layer_dots, tensor_norms
from greatmeta_dist.meta.magnitude import Magnitude
from greatmeta_dist.meta.model import Recommender

COSINE_EPS = 1e-8
"""Norms below this are taken as this in a cosine."""


@dataclass(frozen=True)
class FactorSpec:
    """Which factors a weighting needs read; gap and agreement are always among them."""

    magnitude: Magnitude
    """How the magnitude is read."""
    has_context: bool = False
    """Whether features of the support's context stand beside the factors."""
    is_averaged: bool = False
    """Whether φ sees means over a user's visits (``factor_averages.py``)."""


@dataclass(frozen=True)
class FactorSizes:
    """Number of columns of each kind of factor; the fields are those of ``Factors``."""

    magnitude: int = 0
    gap: int = 0
    agreement: int = 0
    context: int = 0

    @classmethod
    def of(cls, model: Recommender, spec: FactorSpec | None) -> "FactorSizes":
        """Those of a model's factors; all 0 if none are read."""
        if spec is None:
            return cls()
        num_fields = model.num_user_fields + model.num_item_fields
        return cls(
            magnitude=spec.magnitude.num_columns,
            gap=model.num_tensors,
            agreement=num_fields + model.num_tensors,
            context=model.context_feature_dim if spec.has_context else 0,
        )

    @property
    def total(self) -> int:
        return sum(getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True)
class Factors:
    """Factors of B users.

    Tensors of A stand layer by layer: weights (several where a layer stacks them), then the bias.
    """

    magnitude: Tensor
    """[B, 1 or 2] how far the user would move the model; see ``magnitude.py``."""
    gap: Tensor
    """[B, P] cos(g_i,p , g⁰_i,p): does adapting to the support change what the query asks for?"""
    agreement: Tensor
    """[B, F + P] of g_i with the batch's mean gradient ḡ: dot products for fields, cosines for A,
    as published (DESIGN.md section 2, step 3). A cosine for a field would also need ‖g_i,f‖, a sum
    over pairs of user and embedding row (``PairPlan``) that is dear, and otherwise not taken."""
    context: Tensor
    """[B, ``context_feature_dim`` or 0] what the support set says of the user's preferences. It is
    no factor in the paper's sense, as it comes from no gradient. Must stay the last field:
    ``FactorAverages`` cuts its columns off."""

    @classmethod
    def from_columns(cls, columns: Tensor, sizes: FactorSizes) -> "Factors":
        """The inverse of ``columns``."""
        return cls(*columns.split([getattr(sizes, kind) for kind in FACTOR_KINDS], 1))

    def columns(self) -> Tensor:
        """[B, ·] all kinds side by side: the hundred or so numbers per user that leave a worker."""
        return torch.cat([getattr(self, kind) for kind in FACTOR_KINDS], 1)

    def only(self, kinds: Collection[str]) -> "Factors":
        """The same with zeros in place of all other kinds."""
        hidden = [kind for kind in FACTOR_KINDS if kind not in kinds]
        return replace(self, **{k: torch.zeros_like(getattr(self, k)) for k in hidden})


FACTOR_KINDS = tuple(f.name for f in fields(Factors))
assert FACTOR_KINDS[-1] == "context"
assert tuple(f.name for f in fields(FactorSizes)) == FACTOR_KINDS


class GradientDots(NamedTuple):
    """Inner products of each user's two gradients, for every tensor of A: [B, P] each."""

    squares: Tensor
    """⟨g_i, g_i⟩"""
    mixed: Tensor
    """⟨g_i, g⁰_i⟩"""
    squares_unadapted: Tensor
    """⟨g⁰_i, g⁰_i⟩"""


def gradient_dots(results: TaskResults) -> GradientDots:
    """What ``read_factors`` needs that does not wait for ḡ."""
    assert results.unadapted_layers is not None
    return GradientDots(*layer_dots(results.gradients.layers, results.unadapted_layers))


def read_factors(
    results: TaskResults, dots: GradientDots, mean_gradient: MetaGradient, spec: FactorSpec
) -> Factors:
    """Every user's factors, from its gradients and ḡ, the global batch's ``mean_gradient``."""
    norms = dots.squares.clamp(min=0).sqrt()
    context = results.context_features
    if context is None or not spec.has_context:
        context = norms.new_empty(len(norms), 0)
    return Factors(
        magnitude=spec.magnitude.read(results, norms),
        gap=_cosine(dots.mixed, norms, dots.squares_unadapted.clamp(min=0).sqrt()),
        agreement=_agreement(results, mean_gradient, norms),
        context=context,
    )


def _agreement(results: TaskResults, mean_gradient: MetaGradient, norms: Tensor) -> Tensor:
    """[B, F + P], from ‖g_i,p‖ of the tensors of A [B, P]."""
    dots = results.gradients.dots_with(mean_gradient)
    num_fields = dots.shape[1] - norms.shape[1]
    mean_norms = tensor_norms(results.gradients.layers, mean_gradient)
    cosines = _cosine(dots[:, num_fields:], norms, mean_norms)
    return torch.cat((dots[:, :num_fields], cosines), 1)


def _cosine(dot: Tensor, first_norm: Tensor, second_norm: Tensor) -> Tensor:
    return dot / (first_norm.clamp(min=COSINE_EPS) * second_norm.clamp(min=COSINE_EPS))
