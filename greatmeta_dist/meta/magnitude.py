"""The forms of the magnitude factor: by how much would a user move the model?

Shapes: B users.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from greatmeta_dist.meta.adapt import TaskResults

LEAST_LOSS = 1e-6
"""Losses below this are taken as this: a logarithm or a share of 0 says nothing more."""


class Magnitude(Protocol):
    """One form of the magnitude factor: how it is read from a user's results."""

    num_columns: ClassVar[int]
    has_row_norms: ClassVar[bool]
    """Whether it reads norms of embedding gradients, for which batches then carry a plan."""

    def read(self, results: TaskResults, layer_norms: Tensor) -> Tensor:
        """[B, ``num_columns``]; ``layer_norms`` [B, P] are ‖g_i,p‖ of the P tensors of A."""


@dataclass(frozen=True)
class QueryLoss:
    """The query loss after adaptation: the authors' quickstart."""

    num_columns: ClassVar[int] = 1
    has_row_norms: ClassVar[bool] = False

    def read(self, results: TaskResults, layer_norms: Tensor) -> Tensor:
        return results.loss.unsqueeze(1)


@dataclass(frozen=True)
class GradientNorm:
    """Σ over the tensors of θ of ‖g_i,p‖: the paper's."""

    num_columns: ClassVar[int] = 1
    has_row_norms: ClassVar[bool] = True

    def read(self, results: TaskResults, layer_norms: Tensor) -> Tensor:
        row_norms = results.gradients.rows.squared_norms().clamp(min=0).sqrt()
        return (row_norms.sum(1) + layer_norms.sum(1)).unsqueeze(1)


@dataclass(frozen=True)
class LogLosses:
    """Logarithms of the query loss after adaptation and before it: this project's."""

    num_columns: ClassVar[int] = 2
    has_row_norms: ClassVar[bool] = False

    def read(self, results: TaskResults, layer_norms: Tensor) -> Tensor:
        return results.losses.clamp(min=LEAST_LOSS).log()


PUBLISHED_MAGNITUDES: dict[str, Magnitude] = {"loss": QueryLoss(), "norm": GradientNorm()}
"""By the option ``scheduler.magnitude``."""
