"""The three gradient-aware factors (DESIGN.md section 2, step 3; paper section on factors)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from greatmeta_dist.meta.adapt import Tasks
from greatmeta_dist.meta.gradients import MetaGradient, layer_dots, tensor_norms

COSINE_EPS = 1e-8


@dataclass(frozen=True)
class Factors:
    """Raw factors of B users; P tensors of A, F embedding fields.

    Tensors of A stand layer by layer, weights (several where a layer stacks them), then bias.
    """

    magnitude: Tensor
    """[B] how far the user would move the model."""
    gap: Tensor
    """[B, P] does adapting to the support change what the query asks for?"""
    agreement: Tensor
    """[B, F + P] with the batch's mean gradient: dot products for fields, cosines for A."""

    @classmethod
    def from_columns(cls, columns: Tensor, *, num_gap: int) -> "Factors":
        """The inverse of ``columns``."""
        return cls(columns[:, 0], columns[:, 1 : 1 + num_gap], columns[:, 1 + num_gap :])

    def columns(self) -> Tensor:
        """[B, 1 + P + F + P]: the few dozen numbers per user that leave a worker."""
        return torch.cat((self.magnitude.unsqueeze(1), self.gap, self.agreement), 1)


def read_factors(
    tasks: Tasks, mean: MetaGradient, *, magnitude: Literal["loss", "norm"]
) -> Factors:
    """Read every user's factors from its gradients and ḡ, the global batch's mean gradient."""
    assert tasks.unadapted is not None
    squares, mixed, squares_before = layer_dots(tasks.adapted.layers, tasks.unadapted)
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
        return Factors(tasks.loss, gap, agreement)
    row_norms = tasks.adapted.rows.squared_norms().clamp(min=0).sqrt()
    return Factors(row_norms.sum(1) + norms.sum(1), gap, agreement)


def _cosine(dot: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return dot / (left.clamp(min=COSINE_EPS) * right.clamp(min=COSINE_EPS))


def standardise(factors: Factors) -> Factors:
    """What the scheduler sees: magnitude normalised over the batch, the others over a user.

    DESIGN.md section 2, step 4: (x − mean)/sqrt(var + 1e-5) over the B magnitudes, biased variance
    as in layer normalisation; (x − mean)/sqrt(unbiased var + 1e-8) over a user's entries.
    """
    magnitude = torch.nn.functional.layer_norm(factors.magnitude, factors.magnitude.shape, eps=1e-5)
    return Factors(magnitude, _standardise(factors.gap), _standardise(factors.agreement))


def _standardise(entries: Tensor) -> Tensor:
    mean = entries.mean(1, keepdim=True)
    variance = entries.var(1, keepdim=True, correction=1)
    return (entries - mean) / (variance + 1e-8).sqrt()
