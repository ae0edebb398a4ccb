"""A batch of per-user gradients, held as factors, never as users × parameters.

A linear layer's gradient for one user is Σ_r δ_r v_rᵀ over the rows the layer saw, so everything
the method reads from it (norms, cosines, dot products, weighted sums) follows from the δ and v
(DESIGN.md section 3). An embedding's gradient for one user is the rows that the user touched.
Shapes as in ``model.py``; r counts the rows a layer saw, P the tensors of A.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from greatmeta_dist.meta.model import GradientPlan


@dataclass(frozen=True)
class MetaGradient:
    """One gradient of θ: of every tensor of A, and of the batch's distinct embedding rows."""

    layers: dict[str, Tensor]
    rows: Tensor
    """[U, d]"""

    def map(self, fn: Callable[[Tensor], Tensor]) -> "MetaGradient":
        return MetaGradient({k: fn(v) for k, v in self.layers.items()}, fn(self.rows))


@dataclass(frozen=True)
class LinearGradients:
    """Every user's gradient of one linear layer: weight Σ_r δ_r v_rᵀ, bias Σ_r δ_r."""

    delta: Tensor
    """[B, r, out] gradient of the layer's output rows."""
    value: Tensor
    """[B, r, in] the layer's input rows."""
    has_bias: bool

    @property
    def bias(self) -> Tensor:
        return self.delta.sum(1)

    def dot(self, other: "LinearGradients") -> list[Tensor]:
        """User by user ⟨g_i, g'_i⟩, a [B] for each tensor of the layer."""
        through = (self.delta @ other.delta.mT) * (self.value @ other.value.mT)
        dots = [through.sum((1, 2))]
        return [*dots, (self.bias * other.bias).sum(1)] if self.has_bias else dots

    def dot_shared(self, weight: Tensor, bias: Tensor | None) -> list[Tensor]:
        """⟨g_i, G⟩ with one gradient shared by all users, a [B] for each tensor of the layer."""
        dots = [(self.delta * (self.value @ weight.mT)).sum((1, 2))]
        return [*dots, self.bias @ bias] if bias is not None else dots

    def weighted_sum(self, weights: Tensor) -> list[Tensor]:
        """Σ_i w_i g_i, for weights [B]: one tensor for each of the layer's."""
        delta = (self.delta * weights[:, None, None]).flatten(0, 1)
        sums = [delta.mT @ self.value.flatten(0, 1)]
        return [*sums, delta.sum(0)] if self.has_bias else sums


@dataclass(frozen=True)
class RowGradients:
    """Every user's gradient of the embedding rows that the user touches, repeated rows added."""

    value: Tensor
    """[pairs, d]"""
    plan: GradientPlan
    num_users: int
    num_fields: int
    num_rows: int

    @classmethod
    def from_atoms(
        cls, atoms: Tensor, plan: GradientPlan, *, num_users: int, num_fields: int, num_rows: int
    ) -> "RowGradients":
        """Add up atoms [·, d], the gradients of pooled features, along the batch's plan."""
        slots = atoms[plan.atom] * plan.weight.unsqueeze(1)
        value = atoms.new_zeros(plan.user.shape[0], atoms.shape[1])
        value.index_add_(0, plan.pair, slots)
        return cls(value, plan, num_users, num_fields, num_rows)

    def _by_field(self, per_pair: Tensor) -> Tensor:
        """Sum a number per pair into [B, F]."""
        out = per_pair.new_zeros(self.num_users * self.num_fields)
        out.index_add_(0, self.plan.user * self.num_fields + self.plan.field, per_pair)
        return out.view(self.num_users, self.num_fields)

    def squared_norms(self) -> Tensor:
        return self._by_field(self.value.square().sum(1))

    def dot_shared(self, rows: Tensor) -> Tensor:
        """⟨g_i, G⟩ by field [B, F], G given at the batch's distinct rows [U, d]."""
        return self._by_field((self.value * rows[self.plan.row]).sum(1))

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Σ_i w_i g_i at the batch's distinct rows: [U, d]."""
        out = self.value.new_zeros(self.num_rows, self.value.shape[1])
        weighted = self.value * weights[self.plan.user].unsqueeze(1)
        return out.index_add_(0, self.plan.row, weighted)


@dataclass(frozen=True)
class TaskGradients:
    """Every user's gradient of θ = (E, A)."""

    layers: dict[str, LinearGradients]
    rows: RowGradients

    def norms(self) -> Tensor:
        """‖g_i,p‖ of every tensor: [B, F + P], fields first."""
        own = layer_dots(self.layers, self.layers)
        return torch.cat((self.rows.squared_norms(), own), 1).clamp(min=0).sqrt()

    def dot_shared(self, other: MetaGradient) -> Tensor:
        """⟨g_i,p , G_p⟩ of every tensor: [B, F + P], fields first."""
        dots = [
            dot
            for name, grads in self.layers.items()
            for dot in grads.dot_shared(
                other.layers[f"{name}.weight"], other.layers.get(f"{name}.bias")
            )
        ]
        return torch.cat((self.rows.dot_shared(other.rows), torch.stack(dots, 1)), 1)

    def weighted_sum(self, weights: Tensor) -> MetaGradient:
        """Σ_i w_i g_i for weights [B]."""
        layers: dict[str, Tensor] = {}
        for name, grads in self.layers.items():
            weight, *bias = grads.weighted_sum(weights)
            layers[f"{name}.weight"] = weight
            if bias:
                layers[f"{name}.bias"] = bias[0]
        return MetaGradient(layers, self.rows.weighted_sum(weights))


def layer_dots(left: dict[str, LinearGradients], right: dict[str, LinearGradients]) -> Tensor:
    """⟨g_i,p , g'_i,p⟩ user by user for every tensor of A: [B, P]."""
    dots: Sequence[Tensor] = [d for name in left for d in left[name].dot(right[name])]
    return torch.stack(list(dots), 1)
