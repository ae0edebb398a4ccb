"""A batch of per-user gradients of θ, kept without being formed.

**Why.** The method reads every user's gradient g_i: norms, cosines, inner products with a mean, and
weighted sums (DESIGN.md section 2, steps 3 to 6). B copies of all parameters would not fit, nor be
quick to make.

**How.** A linear layer's gradient for one user is Σ_r δ_r v_rᵀ: a sum over the few rows r that the
layer saw, v_r its input and δ_r the gradient of its output. Backpropagation makes the δ's and v's
anyway, and everything that is read from g_i follows from them (section 3; *ghost* norms in
differentially private training are the same idea):

- ‖g_i‖² and ⟨g_i, g⁰_i⟩, from Gram matrices of the δ's and v's: ``LinearGradients.dots``.
- ⟨g_i, G⟩ for one G and all users, Σ_r δ_r·(G v_r): ``LinearGradients.dots_with``.
- Σ_i w_i g_i, one matrix product (w ⊙ Δ)ᵀ V: ``LinearGradients.weighted_sum``.

Embedding rows are no linear layer; ``row_gradients.py`` keeps the gradient of the features pooled
from them. ``layer_input.py`` keeps the v's, ``fast_weights.py`` applies the same idea to adapted
layers, and ``factors.py`` is the reader.

Shapes: B users, L lanes of a batch, P tensors of A, F embedding fields, U distinct embedding rows
of a batch, d their width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from greatmeta_dist.meta.layer_input import user_norms
from greatmeta_dist.meta.linear_gradients import LinearGradients
from greatmeta_dist.meta.row_gradients import RowGradients

Layers = dict[str, Tensor]
"""The tensors of A, or a gradient of them, by name: ``hidden_1.weight`` [out, in], …"""


@dataclass(frozen=True)
class MetaGradient:
    """One gradient of θ, formed: of the tensors of A, and of a batch's distinct embedding rows."""

    layers: Layers
    rows: Tensor
    """[U, d]"""


@dataclass(frozen=True)
class LaneSums:
    """Sums over each lane's users of gradients of θ, formed."""

    layers: Layers
    """[L, …] of the tensors of A."""
    rows: Tensor
    """[U, d] of the distinct rows that each lane touches, lane by lane."""


@dataclass(frozen=True)
class TaskGradients:
    """Every user's gradient of θ = (E, A), not formed."""

    layers: dict[str, LinearGradients]
    """By layer: ``encoder``, ``film``, ``hidden_1``, …, ``output``, ``kernel``."""
    rows: RowGradients

    def weighted_sum(self, weights: Tensor) -> LaneSums:
        """Σ_i w_i g_i over each lane's users, for weights [B]."""
        layers: Layers = {}
        for name, grads in self.layers.items():
            weight, *bias = grads.weighted_sum(weights, self.rows.batch.num_lanes)
            layers[f"{name}.weight"] = weight
            if bias:
                layers[f"{name}.bias"] = bias[0]
        return LaneSums(layers, self.rows.weighted_sum(weights))

    def dots_with(self, other: MetaGradient) -> Tensor:
        """⟨g_i,p , G_p⟩ of every tensor: [B, F + P], fields first."""
        dots = [
            grads.dots_with(other.layers[f"{name}.weight"], other.layers.get(f"{name}.bias"))
            for name, grads in self.layers.items()
        ]
        return torch.cat((self.rows.dots_with(other.rows), *dots), 1)

    def is_finite(self) -> Tensor:
        """[B] whether nothing that is made of a user's gradient can overflow.

        ‖Σ δ vᵀ‖ ≤ ‖Δ‖ ‖V‖: the bound is finite only where every δ and v is.
        """
        deltas = torch.stack([user_norms(grads.delta) for grads in self.layers.values()])
        inputs = torch.stack([grads.inputs.norms() for grads in self.layers.values()])
        bound = self.rows.norm_bounds() + torch.addcmul(deltas, deltas, inputs).sum(0)
        return bound.square().isfinite()

    def zero_users(self, users: Tensor) -> "TaskGradients":
        """The same with zeros for the users [B] where True."""
        layers = {name: grads.zero_users(users) for name, grads in self.layers.items()}
        return TaskGradients(layers, self.rows.zero_users(users))


def layer_dots(
    first: dict[str, LinearGradients], second: dict[str, LinearGradients]
) -> tuple[Tensor, Tensor, Tensor]:
    """⟨g, g⟩, ⟨g, g'⟩, ⟨g', g'⟩ user by user for every tensor of A: [B, P] each."""
    dots = torch.cat([first[name].dots(second[name]) for name in first], 3)  # [B, 2, 2, P]
    squares, mixed, _, other_squares = dots.flatten(1, 2).unbind(1)
    return squares, mixed, other_squares


def tensor_norms(layers: dict[str, LinearGradients], gradient: MetaGradient) -> Tensor:
    """‖G_p‖ of every tensor of A: [P], in the order of ``layer_dots``."""
    tensors: list[Tensor] = []
    for name, grads in layers.items():
        tensors += gradient.layers[f"{name}.weight"].split(grads.splits)
        if grads.has_bias:
            tensors.append(gradient.layers[f"{name}.bias"])
    return torch.stack(torch._foreach_norm(tensors))
