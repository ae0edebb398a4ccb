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
- Σ_i w_i g_i, one matrix product (w ⊙ Δ)ᵀ V of each lane: ``LinearGradients.lane_sums``; or, of
  layers that see one row a user, one of all users (``LaneSums.outer_products``).

Embedding rows are no linear layer; ``row_gradients.py`` keeps the gradient of the features pooled
from them. ``layer_input.py`` keeps the v's, ``fast_weights.py`` applies the same idea to adapted
layers, and ``factors.py`` is the reader.

Shapes: B users, L lanes of a batch, P tensors of A, F embedding fields, U distinct embedding rows
of a batch, d their width.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from greatmeta_dist.meta.layer_input import user_norms
from greatmeta_dist.meta.linear_gradients import LinearGradients
from greatmeta_dist.meta.model import ONE_ROW_LAYERS
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
    """Sums over each lane's users of gradients of θ; or what the sum over all users is made of."""

    layers: Layers
    """[L, …] of the tensors of A, formed."""
    rows: Tensor
    """[U, d] of the distinct rows that each lane touches, lane by lane."""
    outer_products: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """w_i δ_i [B, out] and v_i [B, in] of every user, by layer. These layers see one row a user,
    so Σ_i w_i δ_i v_iᵀ is one product over all users of the global batch, and while these are few
    their δ's and v's are fewer numbers than the layer's weights."""


@dataclass(frozen=True)
class TaskGradients:
    """Every user's gradient of θ = (E, A), not formed."""

    layers: dict[str, LinearGradients]
    """By layer: ``encoder``, ``film``, ``hidden_1``, …, ``output``, ``kernel``."""
    rows: RowGradients

    def weighted_sum(self, weights: Tensor, users_per_batch: int) -> LaneSums:
        """Σ_i w_i g_i over each lane's users, for weights [B].

        ``users_per_batch`` is the number of users of the global batch.
        """
        num_lanes, layers = self.rows.batch.num_lanes, self.layers.values()
        # All layers side by side: few large operations. Σ_r δ_r [L, users of a lane, ·] first.
        sizes = [grads.delta_sum.shape[1] for grads in layers]
        sums = torch.cat([grads.delta_sum for grads in layers], 1) * weights.unsqueeze(1)
        sums = sums.unflatten(0, (num_lanes, -1))
        biases, weighted_sums = sums.sum(1).split(sizes, 1), sums.split(sizes, 2)
        # δ [L, rows of a lane, ·] of the layers that see the rows of a set.
        of_rows = [grads.delta for grads in layers if grads.delta.shape[1] > 1]
        weighted = iter(weighted_rows(of_rows, weights, num_lanes) if of_rows else ())
        totals: Layers = {}
        outer_products: dict[str, tuple[Tensor, Tensor]] = {}
        for (name, grads), weighted_sum, bias in zip(
            self.layers.items(), weighted_sums, biases, strict=True
        ):
            if name in ONE_ROW_LAYERS and grads.are_few(users_per_batch):
                outer_products[name] = (weighted_sum.flatten(0, 1), grads.inputs.rows.squeeze(1))
            else:
                is_one_row = grads.delta.shape[1] == 1
                totals[f"{name}.weight"] = grads.lane_sums(
                    weighted_sum if is_one_row else next(weighted), weighted_sum
                )
            if grads.has_bias:
                totals[f"{name}.bias"] = bias
        return LaneSums(totals, self.rows.weighted_sum(weights), outer_products)

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


def weighted_rows(deltas: list[Tensor], weights: Tensor, num_lanes: int) -> tuple[Tensor, ...]:
    """w_i δ_r of several layers [B, r, out], lane by lane: [L, rows of a lane, out] of each."""
    weighted = torch.cat(deltas, 2) * weights.view(-1, 1, 1)
    sizes = [delta.shape[2] for delta in deltas]
    return weighted.view(num_lanes, -1, weighted.shape[2]).split(sizes, 2)


def layer_dots(
    first: dict[str, LinearGradients], second: dict[str, LinearGradients]
) -> tuple[Tensor, Tensor, Tensor]:
    """⟨g, g⟩, ⟨g, g'⟩, ⟨g', g'⟩ user by user for every tensor of A: [B, P] each."""
    both = [
        torch.cat([grads.delta_sum for grads in layers.values()], 1) for layers in (first, second)
    ]
    delta_sums = torch.stack(both, 1)  # [B, 2, ·] Σ_r δ_r of all layers side by side
    products = delta_sums.unsqueeze(2) * delta_sums.unsqueeze(1)  # [B, 2, 2, ·]
    by_layer = products.split([grads.delta_sum.shape[1] for grads in first.values()], 3)
    dots = torch.cat(
        [
            first[name].dots(second[name], delta_sum_dots)
            for name, delta_sum_dots in zip(first, by_layer, strict=True)
        ],
        3,
    )  # [B, 2, 2, P]
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
