"""What a linear layer sees: the rows of every user, with columns that a user's rows share apart.

A set's features are [user's features | item's features], and the user's are the same in every row.
Products with these shared columns are taken once a user in place of once a row.

Shapes: B users, r rows that a layer sees (n of a set, 1 for the encoder), in and out the layer's
widths, k shared columns, which come first among the layer's inputs.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(eq=False)
class LayerInput:
    """The rows V that a linear layer sees, by user.

    Compared by identity: a layer that sees the very same object again can reuse what it computed.
    The gradient of such rows has the same form and is held as one, too (``vjp``).
    """

    rows: Tensor
    """[B, r, in − k]"""
    shared: Tensor | None = None
    """[B, k] columns that all rows of a user share; None if k is 0."""
    is_fixed: bool = False
    """Whether it is the same in every inner step, as the features of a set are. Then its Gram
    matrix is kept here, ``SharedWeights`` keeps what the shared layer makes of it, and a low-rank
    delta of several steps has no more rows than that of one (``fast_weights.py``)."""
    _own_gram: dict[bool, Tensor] = field(default_factory=dict, repr=False)
    """V Vᵀ [B, r, r] of a fixed input, by whether a column of ones was added."""

    @property
    def width(self) -> int:
        """Number of the layer's inputs."""
        return self.rows.shape[2] + (0 if self.shared is None else self.shared.shape[1])

    def to(self, dtype: torch.dtype) -> "LayerInput":
        """The same input in that precision; itself if it has it already.

        Only outputs of hidden layers come in low precision: features are pooled in full precision.
        """
        if self.rows.dtype == dtype:
            return self
        assert self.shared is None
        return LayerInput(self.rows.to(dtype))

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """V Wᵀ + b: [B, r, out], for one layer [out, in] or for one of each user [B, out, in]."""
        if self.shared is None:
            if weight.ndim == 2:
                return F.linear(self.rows, weight, bias)
            if bias is None:
                return self.rows @ weight.mT
            return torch.baddbmm(bias.unsqueeze(1), self.rows, weight.mT)
        num_shared = self.shared.shape[1]
        if weight.ndim == 2:
            common = F.linear(self.shared, weight[:, :num_shared], bias).unsqueeze(1)
            return F.linear(self.rows, weight[:, num_shared:]).add_(common)
        common = weight[:, :, :num_shared] @ self.shared.unsqueeze(2)
        if bias is not None:
            common = common + bias.unsqueeze(2)
        return torch.baddbmm(common.mT, self.rows, weight[:, :, num_shared:].mT)

    def gram(self, other: "LayerInput", *, with_ones: bool) -> Tensor:
        """Inner products V V'ᵀ with another input's r' rows: [B, r, r'].

        ``with_ones`` appends a column of ones to both, which adds 1 to each product: a bias is the
        weight of such a column.
        """
        is_kept = self.is_fixed and other is self
        if is_kept and with_ones in self._own_gram:
            return self._own_gram[with_ones]
        assert (self.shared is None) == (other.shared is None)
        if self.shared is None or other.shared is None:
            gram = self.rows @ other.rows.mT
            gram = gram.add_(1) if with_ones else gram
        else:
            common = (self.shared * other.shared).sum(1)[:, None, None] + float(with_ones)
            gram = torch.baddbmm(common, self.rows, other.rows.mT)
        if is_kept:
            self._own_gram[with_ones] = gram
        return gram

    def vjp(self, weight: Tensor, delta: Tensor, delta_sum: Tensor) -> "LayerInput":
        """Gradient of this input, from δ [B, r, out] of the layer's output and Σ_r δ_r [B, out].

        The layer is [out, in], or [B, out, in]. The gradient of shared columns is summed over a
        user's rows, as these share one copy of them.
        """
        if self.shared is None:
            return LayerInput(delta @ weight)
        num_shared = self.shared.shape[1]
        common = delta_sum.unsqueeze(1) @ weight[..., :num_shared]
        return LayerInput(delta @ weight[..., num_shared:], common.squeeze(1))

    def low_rank_vjp(self, coefficients: Tensor) -> "LayerInput":
        """Gradient of a layer's input of m rows, through a low-rank delta that has this V.

        The delta is Σ_r c_r v_rᵀ (``fast_weights.py``), so the gradient of row m is
        Σ_r (c_r·δ_m) v_r: ``coefficients`` [B, m, r] are the c_r·δ_m. The gradient of shared
        columns is summed over the m rows, as in ``vjp``.
        """
        rows = coefficients @ self.rows
        if self.shared is None:
            return LayerInput(rows)
        return LayerInput(rows, coefficients.sum((1, 2)).unsqueeze(1) * self.shared)

    def norms(self) -> Tensor:
        """[B] at least ‖V‖ of each user."""
        norms = user_norms(self.rows)
        return norms if self.shared is None else norms + user_norms(self.shared)

    def zero_users_in_place(self, users: Tensor) -> None:
        """Make the rows of the users [B] where True zeros, for all who hold this input.

        In place, because the adapted and the unadapted gradients hold the same input, and
        ``LinearGradients.dots`` needs one Gram matrix only as long as it is the very same object.
        """
        self.rows = zero_users(self.rows, users)
        self.shared = None if self.shared is None else zero_users(self.shared, users)
        self._own_gram = {k: zero_users(gram, users) for k, gram in self._own_gram.items()}


def user_norms(values: Tensor) -> Tensor:
    """[B, …] → [B] the norm of all that is a user's."""
    return torch.linalg.vector_norm(values.flatten(1), dim=1)


def zero_users(values: Tensor, users: Tensor) -> Tensor:
    """[B, …] with zeros for the users [B] where True, also in place of what is not finite."""
    return values.masked_fill(users.view(-1, *(1,) * (values.ndim - 1)), 0)
