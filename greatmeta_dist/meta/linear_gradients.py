"""Every user's gradient of one linear layer, from the layer's δ's and v's, never formed.

``gradients.py`` says why. A layer that maps rows v_r to z_r = W v_r + b has, for one user, the
gradients ∂L/∂W = Σ_r δ_r v_rᵀ and ∂L/∂b = Σ_r δ_r, where δ_r = ∂L/∂z_r. This file reads norms,
inner products and weighted sums from Δ, with rows δ_r, and V, with rows v_r.

Shapes: B users, r rows that the layer saw, in and out its widths, S tensors stacked in the layer
along its outputs, L lanes of a batch, of which each has as many users.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from greatmeta_dist.meta.layer_input import LayerInput, LayerWeight, zero_users


@dataclass(frozen=True)
class LinearGradients:
    """Every user's g: of a layer's weight Σ_r δ_r v_rᵀ, and of its bias Σ_r δ_r."""

    delta: Tensor
    """[B, r, out] Δ: gradient of each row of the layer's output."""
    delta_sum: Tensor
    """[B, out] Σ_r δ_r: the bias's gradient, and what columns shared by all rows need."""
    inputs: LayerInput
    """[B, r, in] V: what the layer saw."""
    has_bias: bool
    splits: tuple[int, ...]
    """[S] number of outputs of each tensor stacked in the layer: γ₁, β₁, γ₂, β₂, … in ``film``,
    which sees one row; one tensor in every other layer."""

    def dots(self, other: "LinearGradients", delta_sum_dots: Tensor) -> Tensor:
        """User by user ⟨g, g⟩, ⟨g, g'⟩, ⟨g', g⟩, ⟨g', g'⟩: [B, 2, 2, S], and a bias's column last.

        All at once, for they share products. ``delta_sum_dots`` [B, 2, 2, out] are those of the
        Σ_r δ_r, output by output. Three ways, by what they cost:

        - One row (encoder, FiLM): the gradient has rank 1, ⟨δvᵀ, δ'v'ᵀ⟩ = (δ·δ')(v·v').
        - Few rows: ⟨g, g'⟩ = Σ_{r,r'} (δ_r·δ'_r')(v_r·v'_r'), from two Gram matrices, Δ Δ'ᵀ and
          V V'ᵀ: r² numbers a user.
        - Many rows for a small layer, r² > out·in: Δᵀ V formed, out·in numbers a user.
        """
        num_rows, num_out = self.delta.shape[1:]
        bias_dots = self._sum_by_tensor(delta_sum_dots)  # [B, 2, 2, S]
        if num_rows == 1:
            dots = bias_dots * self._grams(other).view(len(self.delta), *self._gram_shape(other), 1)
        elif num_rows**2 > num_out * self.inputs.width:
            dots = self._formed_dots(other, bias_dots)
        else:
            deltas = torch.cat((self.delta, other.delta), 1)  # [B, 2r, out]
            delta_grams = torch.bmm(deltas, deltas.mT).view(-1, 2, num_rows, 2, num_rows)
            dots = (delta_grams * self._grams(other)).sum((2, 4)).unsqueeze(3)
        return torch.cat((dots, bias_dots), 3) if self.has_bias else dots

    def _grams(self, other: "LinearGradients") -> Tensor:
        """Inner products of the inputs of both, [B, 2, r, 2, r]; [B, 1, r, 1, r] if they are the
        same, as they are in a layer whose input does not depend on A."""
        num_rows = self.delta.shape[1]
        if self.inputs is other.inputs:
            gram = self.inputs.gram(self.inputs, with_ones=False)
            return gram.view(-1, 1, num_rows, 1, num_rows)
        assert self.inputs.shared is None
        rows = torch.cat((self.inputs.rows, other.inputs.rows), 1)
        return torch.bmm(rows, rows.mT).view(-1, 2, num_rows, 2, num_rows)

    def _gram_shape(self, other: "LinearGradients") -> tuple[int, int]:
        """Of one row's ``_grams``: how many inputs there are."""
        return (1, 1) if self.inputs is other.inputs else (2, 2)

    def _formed_dots(self, other: "LinearGradients", delta_sum_dots: Tensor) -> Tensor:
        """As ``dots`` of one tensor, from both gradients Δᵀ V, formed: [B, 2, 2, 1].

        Shared columns are the same in both: their part of the gradient has rank 1.
        """
        formed = torch.stack(
            [torch.bmm(g.delta.mT, g.inputs.rows).flatten(1) for g in (self, other)], 1
        )  # [B, 2, out·(in − k)]
        dots = torch.bmm(formed, formed.mT).unsqueeze(3)
        shared = self.inputs.shared
        if shared is None:
            return dots
        return dots + delta_sum_dots * shared.square().sum(1)[:, None, None, None]

    def dots_with(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """⟨g_i, G⟩ with one gradient G for all users: [B, S], and a bias's column last.

        ⟨Σ_r δ_r v_rᵀ, G⟩ = Σ_r δ_r·(G v_r): G is applied to the inputs as if it were the layer.
        """
        applied = self.inputs.linear(LayerWeight.cut(weight, self.inputs.num_shared))
        dots = self._sum_by_tensor((self.delta * applied).sum(1))
        if bias is None:
            return dots
        return torch.cat((dots, (self.delta_sum * bias).sum(1, keepdim=True)), 1)

    def are_few(self, num_users: int) -> bool:
        """Whether so many users' δ's and v's of one row are fewer numbers than two copies of the
        layer's weights: lanes' sums go to those who add them and come back."""
        num_out, num_in = self.delta.shape[2], self.inputs.width
        return num_users * (num_out + num_in) <= 2 * num_out * num_in

    def lane_sums(self, weighted: Tensor, weighted_sum: Tensor) -> Tensor:
        """Σ_i w_i g_i of the layer's weight, over each lane's users: [L, out, in].

        ``weighted`` [L, rows of a lane, out] are the w_i δ_r, ``weighted_sum`` [L, users of a lane,
        out] the w_i Σ_r δ_r. One matrix product a lane over all rows of its users, (w ⊙ Δ)ᵀ V. Its
        shape is the lane's alone, and so are its bits.
        """
        num_lanes = len(weighted)
        rows = self.inputs.rows.reshape(num_lanes, -1, self.inputs.rows.shape[2])
        # The columns of ``inputs.rows``, [out, in − k]; the k shared columns come before them.
        total = torch.bmm(weighted.mT, rows)
        if self.inputs.shared is None:
            return total
        shared = self.inputs.shared.unflatten(0, (num_lanes, -1))
        return torch.cat((torch.bmm(weighted_sum.mT, shared), total), 2)

    def zero_users(self, users: Tensor) -> "LinearGradients":
        """The same with zeros for the users [B] where True; their inputs become zeros in place."""
        self.inputs.zero_users_in_place(users)
        delta, delta_sum = zero_users(self.delta, users), zero_users(self.delta_sum, users)
        return replace(self, delta=delta, delta_sum=delta_sum)

    def _sum_by_tensor(self, by_output: Tensor) -> Tensor:
        """[B, …, out] → [B, …, S]: sums within each stacked tensor."""
        if len(self.splits) == 1:
            return by_output.sum(-1, keepdim=True)
        if len(set(self.splits)) == 1:
            return by_output.unflatten(-1, (len(self.splits), -1)).sum(-1)
        return torch.stack([part.sum(-1) for part in by_output.split(self.splits, -1)], -1)
