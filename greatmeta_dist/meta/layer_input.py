"""What a linear layer sees: the rows of every user, with columns that a user's rows share apart.

A set's features are [user's features | item's features], and the user's are the same in every row.
Products with these shared columns are taken once a user in place of once a row.

Shapes: B users, r rows that a layer sees (n of a set, 1 for the encoder), in and out the layer's
widths, k shared columns, which come first among the layer's inputs.
"""
# A step is some hundred small operations, and each costs its start, views included. So products
# of users are ``bmm``: ``@`` reaches it through four views more.

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

FEWEST_ROWS = 16
"""Products of one layer with fewer rows are padded to so many."""


@dataclass(frozen=True, eq=False)
class LayerWeight:
    """A layer's weight, or one of each user, cut as its input is."""

    shared: Tensor | None
    """[out, k] or [B, out, k]; None if the inputs have none."""
    rows: Tensor
    """[out, in − k] or [B, out, in − k]"""

    @cached_property
    def transposed_rows(self) -> Tensor:
        """[in − k, out] or [B, in − k, out]; a view, made once for all inner steps."""
        return self.rows.mT

    @classmethod
    def cut(cls, weight: Tensor, num_shared: int | None) -> "LayerWeight":
        """From the whole weight [out, in]."""
        if num_shared is None:
            return cls(None, weight)
        return cls(*weight.tensor_split([num_shared], 1))

    def of_each(self, num_users: int) -> "LayerWeight":
        """The layer as every user's own."""
        shared = None if self.shared is None else self.shared.expand(num_users, -1, -1)
        return LayerWeight(shared, self.rows.expand(num_users, -1, -1))

    def joined(self) -> Tensor:
        """The whole weight [out, in] or [B, out, in]."""
        return self.rows if self.shared is None else torch.cat((self.shared, self.rows), -1)


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
        return self.rows.shape[2] + (self.num_shared or 0)

    @property
    def num_shared(self) -> int | None:
        """k; None where nothing is shared."""
        return None if self.shared is None else self.shared.shape[1]

    def to(self, dtype: torch.dtype) -> "LayerInput":
        """The same input in that precision; itself if it has it already.

        Only outputs of hidden layers come in low precision: features are pooled in full precision.
        """
        if self.rows.dtype == dtype:
            return self
        assert self.shared is None
        return LayerInput(self.rows.to(dtype))

    def linear(self, weight: LayerWeight, bias: Tensor | None = None) -> Tensor:
        """V Wᵀ + b: [B, r, out], for one layer or for one of each user, whose b is [B, out].

        A layer with one output is multiplied user by user, as if it were each user's own
        (``_shared_product`` says why).
        """
        if weight.rows.ndim == 2 and len(weight.rows) == 1:
            weight = weight.of_each(len(self.rows))
            bias = None if bias is None else bias.expand(len(self.rows), -1)
        if weight.rows.ndim == 2:
            if self.shared is None or weight.shared is None:
                return _shared_product(self.rows, weight.transposed_rows, bias)
            of_user = _shared_product(self.shared, weight.shared.mT, bias).unsqueeze(1)
            return _shared_product(self.rows, weight.transposed_rows).add_(of_user)
        common = None if bias is None else bias.unsqueeze(1)  # [B, 1, out]
        if self.shared is not None and weight.shared is not None:
            common = _bmm(self.shared.unsqueeze(1), weight.shared.mT, common)
        return _bmm(self.rows, weight.transposed_rows, common)

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
            gram = torch.bmm(self.rows, other.rows.mT)
            gram = gram.add_(1) if with_ones else gram
        else:
            common = (self.shared * other.shared).sum(1, keepdim=True).unsqueeze(2)
            common = common + 1 if with_ones else common
            gram = torch.baddbmm(common, self.rows, other.rows.mT)
        if is_kept:
            self._own_gram[with_ones] = gram
        return gram

    def vjp(self, weight: LayerWeight, delta: Tensor, delta_sum: Tensor) -> "LayerInput":
        """Gradient of this input, from δ [B, r, out] of the layer's output and Σ_r δ_r [B, out].

        The gradient of shared columns is summed over a user's rows, as these share one copy of
        them.
        """
        if weight.rows.ndim == 2:
            rows = _shared_product(delta, weight.rows)
            if weight.shared is None:
                return LayerInput(rows)
            return LayerInput(rows, _shared_product(delta_sum, weight.shared))
        rows = torch.bmm(delta, weight.rows)
        if weight.shared is None:
            return LayerInput(rows)
        return LayerInput(rows, torch.bmm(delta_sum.unsqueeze(1), weight.shared).squeeze(1))

    def add_low_rank_vjp(
        self, scaled_delta: Tensor, delta: Tensor, delta_sum: Tensor, gradient: "LayerInput"
    ) -> "LayerInput":
        """``gradient`` of a layer's input of m rows, and what a low-rank delta of this V adds.

        The delta is Σ_r c_r v_rᵀ (``fast_weights.py``), ``scaled_delta`` [B, r, out] being the c_r.
        So it adds Σ_r (c_r·δ_m) v_r to the gradient of row m. The gradient of shared columns is
        summed over the m rows, as in ``vjp``.
        """
        coefficients = torch.bmm(delta, scaled_delta.mT)  # [B, m, r]
        rows = torch.baddbmm(gradient.rows, coefficients, self.rows)
        if self.shared is None or gradient.shared is None:
            return LayerInput(rows)
        total = (scaled_delta.sum(1) * delta_sum).sum(1, keepdim=True)  # [B, 1] Σ c_r·δ_m
        return LayerInput(rows, torch.addcmul(gradient.shared, total, self.shared))

    def of_users(self, users: Tensor | None) -> "LayerInput":
        """The rows of the chosen users [b]; itself if that is None."""
        if users is None:
            return self
        shared = None if self.shared is None else self.shared.index_select(0, users)
        return LayerInput(self.rows.index_select(0, users), shared)

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


def row_sums(values: Tensor) -> Tensor:
    """[…, n] → […, 1], with the same bits however many zeros stand behind a user's rows.

    A plain sum over the last axis adds in an order that its length decides. A product with ones
    adds one row after the other; with one column of ones it would be a product of vectors.
    """
    ones = _columns_of_ones(values.shape[-1], values.dtype, values.device)
    return _shared_product(values, ones)[..., :1]


@lru_cache(maxsize=64)
def _columns_of_ones(num_rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[n, 16]"""
    return torch.ones(num_rows, 16, dtype=dtype, device=device)


def all_finite(values: Tensor) -> Tensor:
    """[B, n] → [B] whether all is finite: nothing else times 0 is 0."""
    return (values * 0).sum(1) == 0


def _shared_product(values: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """``values`` […, m] times a matrix of all users [m, n], and a bias [n] added.

    A library computes a product of few rows by other code than that of many, and rounds otherwise.
    So few rows are padded: a user's results must not depend on how many users there are. (For one
    column it does so with the last few of any number of rows: see ``linear``.)
    """
    rows = values if values.ndim == 2 else values.flatten(0, 1)
    num_rows = len(rows)
    if num_rows < FEWEST_ROWS:
        rows = F.pad(rows, (0, 0, 0, FEWEST_ROWS - num_rows))
    product = torch.mm(rows, matrix) if bias is None else torch.addmm(bias, rows, matrix)
    if num_rows < FEWEST_ROWS:
        product = product[:num_rows]
    return product if values.ndim == 2 else product.unflatten(0, values.shape[:2])


def _bmm(rows: Tensor, weight: Tensor, common: Tensor | None) -> Tensor:
    """Products user by user, and what is common to a user's rows [B, 1, out] added.

    A lone user's product with one column goes through a library's code for vectors, which rounds
    otherwise than that for many users. So the user is taken twice.
    """
    if len(rows) == 1 and weight.shape[2] == 1:
        common = None if common is None else common.expand(2, -1, -1)
        return _bmm(rows.expand(2, -1, -1), weight.expand(2, -1, -1), common)[:1]
    if common is None:
        return torch.bmm(rows, weight)
    return torch.baddbmm(common, rows, weight)


def user_norms(values: Tensor) -> Tensor:
    """[B, …] → [B] the norm of all that is a user's."""
    return torch.linalg.vector_norm(values, dim=tuple(range(1, values.ndim)))


def zero_users(values: Tensor, users: Tensor) -> Tensor:
    """[B, …] with zeros for the users [B] where True, also in place of what is not finite."""
    return values.masked_fill(users.view(-1, *(1,) * (values.ndim - 1)), 0)
