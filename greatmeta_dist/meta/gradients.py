"""A batch of per-user gradients, held as factors, never as users × parameters.

A linear layer's gradient for one user is Σ_r δ_r v_rᵀ over the rows the layer saw, so everything
the method reads from it (norms, cosines, dot products, weighted sums) follows from the δ and v
(DESIGN.md section 3). The embedding rows' gradient for one user is held as that of the features
they are pooled into. Shapes as in ``batch.py``; r counts the rows a layer saw, S the tensors
stacked in a layer, P the tensors of A.
"""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from greatmeta_dist.meta.batch import RowSet, SlotTable, TaskBatch


@dataclass(eq=False)
class LayerInput:
    """The rows a linear layer sees, by user; columns that all rows of a user share stand apart.

    A layer's weight has the shared columns first. Products of a ``is_fixed`` input are remembered:
    the features of a set are the same in every inner step.
    """

    rows: Tensor
    """[B, r, in − shared]"""
    shared: Tensor | None = None
    """[B, shared]"""
    is_fixed: bool = False
    _own_gram: dict[bool, Tensor] = field(default_factory=dict, repr=False)

    @property
    def width(self) -> int:
        """The layer's inputs."""
        return self.rows.shape[2] + (0 if self.shared is None else self.shared.shape[1])

    def to(self, dtype: torch.dtype) -> "LayerInput":
        """Itself in that precision."""
        return self if self.rows.dtype == dtype else LayerInput(self.rows.to(dtype))

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Apply one layer [out, in] to all users, or one to each [B, out, in]: [B, r, out]."""
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

    def gram(self, other: "LayerInput", *, has_bias: bool) -> Tensor:
        """Inner products of own and other rows [B, r, r'], with a column of ones for a bias."""
        is_kept = self.is_fixed and other is self
        if is_kept and has_bias in self._own_gram:
            return self._own_gram[has_bias]
        assert (self.shared is None) == (other.shared is None)
        if self.shared is None or other.shared is None:
            gram = self.rows @ other.rows.mT
            gram = gram.add_(1) if has_bias else gram
        else:
            common = (self.shared * other.shared).sum(1)[:, None, None] + float(has_bias)
            gram = torch.baddbmm(common, self.rows, other.rows.mT)
        if is_kept:
            self._own_gram[has_bias] = gram
        return gram

    def vjp(self, weight: Tensor, delta: Tensor, total: Tensor) -> "LayerInput":
        """Gradient of this input through a layer [out, in] or [B, out, in].

        From that of the layer's output, δ [B, r, out] and Σ_r δ [B, out].
        """
        if self.shared is None:
            return LayerInput(delta @ weight)
        num_shared = self.shared.shape[1]
        common = total.unsqueeze(1) @ weight[..., :num_shared]
        return LayerInput(delta @ weight[..., num_shared:], common.squeeze(1))

    def combine(self, shares: Tensor) -> "LayerInput":
        """Sums of own rows: shares [B, m, r] → m rows for each user, shared columns summed up."""
        rows = shares @ self.rows
        if self.shared is None:
            return LayerInput(rows)
        return LayerInput(rows, shares.sum((1, 2)).unsqueeze(1) * self.shared)

    def norms(self) -> Tensor:
        """[B] ‖·‖ of each user's rows."""
        own = _user_norms(self.rows)
        return own if self.shared is None else own + _user_norms(self.shared)

    def forget(self, users: Tensor) -> None:
        """Make the rows of the users [B] where True all zeros, in place: who holds it sees it."""
        self.rows = _without(self.rows, users)
        self.shared = None if self.shared is None else _without(self.shared, users)
        self._own_gram = {k: _without(gram, users) for k, gram in self._own_gram.items()}


def _user_norms(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values.flatten(1), dim=1)


def _without(values: Tensor, users: Tensor) -> Tensor:
    """[B, …] with zeros for the users [B] where True."""
    return values.masked_fill(users.view(-1, *(1,) * (values.ndim - 1)), 0)


@dataclass(frozen=True)
class LinearGradients:
    """Every user's gradient of one linear layer: weight Σ_r δ_r v_rᵀ, bias Σ_r δ_r.

    A layer may stack several tensors along its outputs; ``splits`` are their heights.
    """

    delta: Tensor
    """[B, r, out] gradient of the layer's output rows."""
    total: Tensor
    """[B, out] Σ_r δ_r."""
    value: LayerInput
    has_bias: bool
    splits: tuple[int, ...]

    def dots(self, other: "LinearGradients") -> Tensor:
        """User by user ⟨g, g⟩, ⟨g, g'⟩, ⟨g', g'⟩: [B, 3, S], and a bias's column last."""
        totals = torch.stack((self.total, other.total), 1)
        num_rows, num_out = self.delta.shape[1:]
        if num_rows == 1:
            left, right = totals.unbind(1)
            by_column = torch.stack((left * left, left * right, right * right), 1)
            dots = self._by_tensor(by_column) * _three(self._grams(other)[:, :, 0, :, 0])
        elif num_rows**2 > num_out * self.value.width:
            formed = torch.stack((self.products(), other.products()), 1).flatten(2)
            dots = _three(formed @ formed.mT)
        else:
            deltas = torch.cat((self.delta, other.delta), 1)
            through = (deltas @ deltas.mT).view(-1, 2, num_rows, 2, num_rows)
            dots = _three((through * self._grams(other)).sum((2, 4)))
        return torch.cat((dots, _three(totals @ totals.mT)), 2) if self.has_bias else dots

    def _grams(self, other: "LinearGradients") -> Tensor:
        """Inner products of the inputs of both, [B, 2, r, 2, r], or [B, 1, r, 1, r] if the same."""
        if self.value is other.value:
            return self.value.gram(self.value, has_bias=False)[:, None, :, None, :]
        assert self.value.shared is None
        rows = torch.cat((self.value.rows, other.value.rows), 1)
        num_rows = self.delta.shape[1]
        return (rows @ rows.mT).view(-1, 2, num_rows, 2, num_rows)

    def dot_shared(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """⟨g_i, G⟩ with one gradient G shared by all users: [B, S], and a bias's column last."""
        if self.value.shared is None:
            through = (self.delta * F.linear(self.value.rows, weight)).sum(1)
        else:
            num_shared = self.value.shared.shape[1]
            through = (self.delta * F.linear(self.value.rows, weight[:, num_shared:])).sum(1)
            through = through + self.total * F.linear(self.value.shared, weight[:, :num_shared])
        dots = self._by_tensor(through)
        return dots if bias is None else torch.cat((dots, (self.total @ bias).unsqueeze(1)), 1)

    def products(self) -> Tensor:
        """Each user's weight gradient, formed: [B, out, in]."""
        rows = self.delta.mT @ self.value.rows
        if self.value.shared is None:
            return rows
        return torch.cat((self.total.unsqueeze(2) * self.value.shared.unsqueeze(1), rows), 2)

    def weighted_sum(self, weights: Tensor) -> list[Tensor]:
        """Σ_i w_i g_i for weights [B]: the layer's weight, and its bias if it has one."""
        weighted = self.delta * weights[:, None, None]
        sums = [weighted.flatten(0, 1).mT @ self.value.rows.flatten(0, 1)]
        total = weights @ self.total if self.has_bias else None
        if self.value.shared is not None:
            common = (self.total * weights.unsqueeze(1)).mT @ self.value.shared
            sums = [torch.cat((common, *sums), 1)]
        return [*sums, total] if total is not None else sums

    def without(self, users: Tensor) -> "LinearGradients":
        """With zeros for the users [B] where True."""
        self.value.forget(users)
        return replace(self, delta=_without(self.delta, users), total=_without(self.total, users))

    def _by_tensor(self, columns: Tensor) -> Tensor:
        """Sum [B, …, out] within each stacked tensor: [B, …, S]."""
        if len(self.splits) == 1:
            return columns.sum(-1, keepdim=True)
        return torch.stack([part.sum(-1) for part in columns.split(self.splits, -1)], -1)


def _three(pairs: Tensor) -> Tensor:
    """Of a pair's inner products [B, 2, 2] the three that differ: [B, 3, 1]."""
    if pairs.shape[1] == 1:
        return pairs
    return torch.stack((pairs[:, 0, 0], pairs[:, 0, 1], pairs[:, 1, 1]), 1).unsqueeze(2)


@dataclass(frozen=True)
class MetaGradient:
    """One gradient of θ: of every tensor of A, and of the batch's distinct embedding rows."""

    layers: dict[str, Tensor]
    rows: Tensor
    """[U, d]"""


@dataclass(frozen=True)
class RowGradients:
    """Every user's gradient of the embedding rows, held as gradients of the features they pool.

    Those of the support's features, where the context is made of it, are the context's own, spread
    by the rows' shares in it: they are kept so.
    """

    user: Tensor
    """[B, Fu·d]"""
    query: Tensor
    """[B, n, Fi·d]"""
    by_share: Tensor | None
    """[B, s, Fi·d] the context's gradient; row r of the support has shares[s, r] of each."""
    shares: Tensor | None
    """[B, s, n]"""
    batch: TaskBatch

    def dot_shared(self, rows: Tensor) -> Tensor:
        """⟨g_i, G⟩ by field [B, F], G given at the batch's distinct rows [U, d]."""
        batch, width = self.batch, rows.shape[1]
        item = pool_slots(rows, batch.item_slots)
        by_column = (self.query * pick(item, batch.query.item)).sum(1)
        if self.by_share is not None and self.shares is not None:
            of_support = self.shares @ pick(item, batch.support.item)
            by_column = by_column + (self.by_share * of_support).sum(1)
        user = self.user * pool_slots(rows, batch.user_slots)
        return torch.cat((user, by_column), 1).view(len(user), -1, width).sum(2)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Σ_i w_i g_i at the batch's distinct rows: [U, d]."""
        unpool = self.batch.unpool
        item = _by_item(self.batch.query, self.query, weights)
        if self.by_share is not None and self.shares is not None:
            item += _by_item_of_shares(self.batch.support, self.by_share, self.shares, weights)
        user = self.user * weights.unsqueeze(1)
        width = item.shape[1] // self.batch.item_slots.start.shape[1]
        atoms = torch.cat((user.view(-1, width), item.view(-1, width)))
        return F.embedding_bag(
            unpool.atom, atoms, unpool.row_start, mode="sum", per_sample_weights=unpool.weight
        )

    def bounds(self) -> Tensor:
        """[B] at least the norm of the user's gradient, up to repeated rows."""
        bound = _user_norms(self.user) + _user_norms(self.query)
        if self.by_share is not None and self.shares is not None:
            bound = bound + _user_norms(self.by_share) * _user_norms(self.shares)
        return bound

    def without(self, users: Tensor) -> "RowGradients":
        """With zeros for the users [B] where True."""
        return replace(
            self,
            user=_without(self.user, users),
            query=_without(self.query, users),
            by_share=None if self.by_share is None else _without(self.by_share, users),
            shares=None if self.shares is None else _without(self.shares, users),
        )

    def squared_norms(self) -> Tensor:
        """‖g_i,f‖² by field [B, F], the slots of a repeated row added first."""
        pairs = self.batch.pairs
        assert pairs is not None
        num_fields = self.batch.user_slots.start.shape[1] + self.batch.item_slots.start.shape[1]
        width = self.query.shape[2] // self.batch.item_slots.start.shape[1]
        parts = [self.user, self.query]
        if self.by_share is not None and self.shares is not None:
            parts.append(self.shares.mT @ self.by_share)
        value = F.embedding_bag(
            pairs.atom,
            torch.cat([part.reshape(-1, width) for part in parts]),
            pairs.pair_start,
            mode="sum",
            per_sample_weights=pairs.weight,
        )
        sums = torch.segment_reduce(
            value.square().sum(1), "sum", offsets=pairs.field_start, unsafe=True, initial=0
        )
        return sums.view(-1, num_fields)


def pool_slots(rows: Tensor, slots: SlotTable) -> Tensor:
    """Feature vectors [entities, fields·d] from embedding rows [U, d]."""
    if not slots.start.numel():
        return rows.new_zeros(slots.start.shape)
    pooled = F.embedding_bag(
        slots.row, rows, slots.start.flatten(), mode="sum", per_sample_weights=slots.weight
    )
    return pooled.view(len(slots.start), -1)


def pick(item: Tensor, which: Tensor) -> Tensor:
    """Items' vectors [I, ·] for every row of a set: [B, n, ·]."""
    return item.index_select(0, which.flatten()).view(*which.shape, -1)


def _by_item(rows: RowSet, gradient: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of the rows' gradients [B, n, ·] over the rows of each item: [I, ·]."""
    each = weights.unsqueeze(1).expand(rows.item.shape).reshape(-1).index_select(0, rows.by_item)
    return F.embedding_bag(
        rows.by_item, gradient.flatten(0, 1), rows.item_start, mode="sum", per_sample_weights=each
    )


def _by_item_of_shares(rows: RowSet, by_share: Tensor, shares: Tensor, weights: Tensor) -> Tensor:
    """The same of rows' gradients that are ``shares`` [B, s, n] of ``by_share`` [B, s, ·]: [I, ·].

    They are never formed: sums go from the s of each user straight to items.
    """
    num_shares, num_rows = shares.shape[1:]
    each = (shares * weights[:, None, None]).mT.flatten(0, 1).index_select(0, rows.by_item)
    first = rows.by_item.div(num_rows, rounding_mode="floor").unsqueeze(1) * num_shares
    which = first + torch.arange(num_shares, dtype=first.dtype, device=first.device)
    return F.embedding_bag(
        which.flatten(),
        by_share.flatten(0, 1),
        rows.item_start * num_shares,
        mode="sum",
        per_sample_weights=each.flatten(),
    )


@dataclass(frozen=True)
class TaskGradients:
    """Every user's gradient of θ = (E, A)."""

    layers: dict[str, LinearGradients]
    rows: RowGradients

    def weighted_sum(self, weights: Tensor) -> MetaGradient:
        """Σ_i w_i g_i for weights [B]."""
        layers: dict[str, Tensor] = {}
        for name, grads in self.layers.items():
            weight, *bias = grads.weighted_sum(weights)
            layers[f"{name}.weight"] = weight
            if bias:
                layers[f"{name}.bias"] = bias[0]
        return MetaGradient(layers, self.rows.weighted_sum(weights))

    def dot_shared(self, other: MetaGradient) -> Tensor:
        """⟨g_i,p , G_p⟩ of every tensor: [B, F + P], fields first."""
        dots = [
            grads.dot_shared(other.layers[f"{name}.weight"], other.layers.get(f"{name}.bias"))
            for name, grads in self.layers.items()
        ]
        return torch.cat((self.rows.dot_shared(other.rows), *dots), 1)

    def is_finite(self) -> Tensor:
        """[B] whether nothing that is made of a user's gradient can overflow."""
        bound = self.rows.bounds()
        for grads in self.layers.values():
            bound = bound + _user_norms(grads.delta) * (1 + grads.value.norms())
        return bound.square().isfinite()

    def without(self, users: Tensor) -> "TaskGradients":
        """With zeros for the users [B] where True."""
        layers = {name: grads.without(users) for name, grads in self.layers.items()}
        return TaskGradients(layers, self.rows.without(users))


def layer_dots(
    left: dict[str, LinearGradients], right: dict[str, LinearGradients]
) -> tuple[Tensor, Tensor, Tensor]:
    """⟨g, g⟩, ⟨g, g'⟩, ⟨g', g'⟩ user by user for every tensor of A: [B, P] each."""
    own, mixed, other = torch.cat([left[name].dots(right[name]) for name in left], 2).unbind(1)
    return own, mixed, other


def tensor_norms(layers: dict[str, LinearGradients], gradient: MetaGradient) -> Tensor:
    """‖G_p‖ of every tensor of A: [P], in the order of ``layer_dots``."""
    norms = []
    for name, grads in layers.items():
        parts = gradient.layers[f"{name}.weight"].split(grads.splits)
        norms += [part.norm() for part in parts]
        if grads.has_bias:
            norms.append(gradient.layers[f"{name}.bias"].norm())
    return torch.stack(norms)
