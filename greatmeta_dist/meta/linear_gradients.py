"""Every user's gradient of one linear layer, from the layer's δ's and v's, never formed.

``gradients.py`` says why. A layer that maps rows v_r to z_r = W v_r + b has, for one user, the
gradients ∂L/∂W = Σ_r δ_r v_rᵀ and ∂L/∂b = Σ_r δ_r, where δ_r = ∂L/∂z_r. This file reads norms,
inner products and weighted sums from Δ, with rows δ_r, and V, with rows v_r.

Shapes: B users, r rows that the layer saw, in and out its widths, S tensors stacked in the layer
along its outputs.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from greatmeta_dist.meta.layer_input import LayerInput, zero_users


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

    def dots(self, other: "LinearGradients") -> Tensor:
        """User by user ⟨g, g⟩, ⟨g, g'⟩, ⟨g', g'⟩: [B, 3, S], and a bias's column last.

        All three at once, for they share products. Three ways, by what they cost:

        - One row (encoder, FiLM): the gradient has rank 1, ⟨δvᵀ, δ'v'ᵀ⟩ = (δ·δ')(v·v').
        - Few rows: ⟨g, g'⟩ = Σ_{r,r'} (δ_r·δ'_r')(v_r·v'_r'), from two Gram matrices, Δ Δ'ᵀ and
          V V'ᵀ: r² numbers a user.
        - Many rows for a small layer, r² > out·in: Δᵀ V formed, out·in numbers a user.
        """
        delta_sums = torch.stack((self.delta_sum, other.delta_sum), 1)  # [B, 2, out]
        num_rows, num_out = self.delta.shape[1:]
        if num_rows == 1:
            first, second = delta_sums.unbind(1)
            # The products δ δ', before they are summed over each tensor's outputs: [B, 3, out].
            by_output = torch.stack((first * first, first * second, second * second), 1)
            dots = self._sum_by_tensor(by_output) * _three(self._grams(other)[:, :, 0, :, 0])
        elif num_rows**2 > num_out * self.inputs.width:
            assert len(self.splits) == 1  # only film stacks tensors, and it sees one row
            formed = torch.stack((self.form(), other.form()), 1).flatten(2)  # [B, 2, out·in]
            dots = _three(formed @ formed.mT)
        else:
            assert len(self.splits) == 1
            deltas = torch.cat((self.delta, other.delta), 1)  # [B, 2r, out]
            delta_grams = (deltas @ deltas.mT).view(-1, 2, num_rows, 2, num_rows)
            dots = _three((delta_grams * self._grams(other)).sum((2, 4)))
        if not self.has_bias:
            return dots
        return torch.cat((dots, _three(delta_sums @ delta_sums.mT)), 2)

    def _grams(self, other: "LinearGradients") -> Tensor:
        """Inner products of the inputs of both, [B, 2, r, 2, r]; [B, 1, r, 1, r] if they are the
        same, as they are in a layer whose input does not depend on A."""
        if self.inputs is other.inputs:
            return self.inputs.gram(self.inputs, with_ones=False)[:, None, :, None, :]
        assert self.inputs.shared is None
        rows = torch.cat((self.inputs.rows, other.inputs.rows), 1)
        num_rows = self.delta.shape[1]
        return (rows @ rows.mT).view(-1, 2, num_rows, 2, num_rows)

    def dots_with(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """⟨g_i, G⟩ with one gradient G for all users: [B, S], and a bias's column last.

        ⟨Σ_r δ_r v_rᵀ, G⟩ = Σ_r δ_r·(G v_r): G is applied to the inputs as if it were the layer.
        """
        if self.inputs.shared is None:
            by_output = (self.delta * F.linear(self.inputs.rows, weight)).sum(1)
        else:
            shared, num_shared = self.inputs.shared, self.inputs.shared.shape[1]
            by_output = (self.delta * F.linear(self.inputs.rows, weight[:, num_shared:])).sum(1)
            by_output = by_output + self.delta_sum * F.linear(shared, weight[:, :num_shared])
        dots = self._sum_by_tensor(by_output)
        return dots if bias is None else torch.cat((dots, (self.delta_sum @ bias).unsqueeze(1)), 1)

    def form(self) -> Tensor:
        """Each user's weight gradient Δᵀ V, formed: [B, out, in]."""
        products = self.delta.mT @ self.inputs.rows
        if self.inputs.shared is None:
            return products
        common = self.delta_sum.unsqueeze(2) * self.inputs.shared.unsqueeze(1)
        return torch.cat((common, products), 2)

    def weighted_sum(self, weights: Tensor) -> list[Tensor]:
        """Σ_i w_i g_i for weights [B]: of the layer's weight [out, in], and of its bias [out].

        One matrix product over all rows of all users, (w ⊙ Δ)ᵀ V.
        """
        weighted = self.delta * weights[:, None, None]  # [B, r, out] w ⊙ Δ
        # The columns of ``inputs.rows``, [out, in − k]; the k shared columns come before them.
        sums = [weighted.flatten(0, 1).mT @ self.inputs.rows.flatten(0, 1)]
        bias = weights @ self.delta_sum if self.has_bias else None
        if self.inputs.shared is not None:
            common = (self.delta_sum * weights.unsqueeze(1)).mT @ self.inputs.shared  # [out, k]
            sums = [torch.cat((common, *sums), 1)]
        return [*sums, bias] if bias is not None else sums

    def zero_users(self, users: Tensor) -> "LinearGradients":
        """The same with zeros for the users [B] where True; their inputs become zeros in place."""
        self.inputs.zero_users_in_place(users)
        delta, delta_sum = zero_users(self.delta, users), zero_users(self.delta_sum, users)
        return replace(self, delta=delta, delta_sum=delta_sum)

    def _sum_by_tensor(self, by_output: Tensor) -> Tensor:
        """[B, …, out] → [B, …, S]: sums within each stacked tensor."""
        if len(self.splits) == 1:
            return by_output.sum(-1, keepdim=True)
        return torch.stack([part.sum(-1) for part in by_output.split(self.splits, -1)], -1)


def _three(dots: Tensor) -> Tensor:
    """Of the inner products of two vectors [B, 2, 2] the three that differ: [B, 3, 1].

    Where both are the same, [B, 1, 1] stays as it is.
    """
    if dots.shape[1] == 1:
        return dots
    return torch.stack((dots[:, 0, 0], dots[:, 0, 1], dots[:, 1, 1]), 1).unsqueeze(2)
