"""Every user's gradient of the embedding rows, held as that of the features pooled from them.

A user touches few of the U rows, so a [B, U, d] tensor would be nearly all zeros. What is kept is
the gradient of the *pooled* features: once a user for its own fields, once a query row for the
item's fields. Sums over users go from there to the rows along the batch's index plans.

Shapes: as in ``batch.py``, and s components of the context: 1, the mean of rows,
or 2, with the label-weighted mean.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from greatmeta_dist.meta.batch import RowSet, TaskBatch
from greatmeta_dist.meta.layer_input import user_norms, zero_users
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.meta.pooling import gather_items, pool_slots
from greatmeta_dist.meta.set_input import InputGradients, context_weights


@dataclass(frozen=True)
class RowGradients:
    """Every user's gradient of the embedding rows.

    Where the context is made of the support rows, x of support row r enters component j of the
    context with weight c[j, r]. So the gradient of that x is Σ_j c[j, r] (gradient of component j):
    the two are kept, and their product over n rows is not formed.
    """

    user: Tensor
    """[B, Fu·d] gradient of the user's features."""
    query: Tensor
    """[B, n, Fi·d] gradient of the item features of the query's rows."""
    context: Tensor | None
    """[B, s, Fi·d] gradient of the context's item columns; None where it reaches no support row."""
    context_weights: Tensor | None
    """[B, s, n] weight c of each support row in the context."""
    batch: TaskBatch

    def dots_with(self, rows: Tensor) -> Tensor:
        """⟨g_i, G⟩ by field [B, F], for G given at the batch's distinct rows [U, d].

        G is pooled as embeddings are, and multiplied with the pooled features' gradient.
        """
        batch, width = self.batch, rows.shape[1]
        item = pool_slots(rows, batch.item_slots)
        by_column = (self.query * gather_items(item, batch.query.item)).sum(1)
        if self.context is not None and self.context_weights is not None:
            of_support = self.context_weights @ gather_items(item, batch.support.item)
            by_column = by_column + (self.context * of_support).sum(1)
        user = self.user * pool_slots(rows, batch.user_slots)
        return torch.cat((user, by_column), 1).view(len(user), -1, width).sum(2)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Σ_i w_i g_i for weights [B], at the batch's distinct rows: [U, d]."""
        unpool = self.batch.unpool
        item = _sum_by_item(self.batch.query, self.query, weights)
        if self.context is not None and self.context_weights is not None:
            item += _sum_context_by_item(
                self.batch.support, self.context, self.context_weights, weights
            )
        user = self.user * weights.unsqueeze(1)
        width = item.shape[1] // self.batch.item_slots.start.shape[1]
        atoms = torch.cat((user.view(-1, width), item.view(-1, width)))
        return F.embedding_bag(
            unpool.atom, atoms, unpool.row_start, mode="sum", per_sample_weights=unpool.weight
        )

    def norm_bounds(self) -> Tensor:
        """[B] a cheap bound on the norm of the pooled features' gradient.

        Finite where all its entries are. It is no bound on the gradient of the embedding rows,
        since a row can repeat within a user.
        """
        bound = user_norms(self.user) + user_norms(self.query)
        if self.context is not None and self.context_weights is not None:
            bound = bound + user_norms(self.context) * user_norms(self.context_weights)
        return bound

    def zero_users(self, users: Tensor) -> "RowGradients":
        """The same with zeros for the users [B] where True."""
        context, context_weights = self.context, self.context_weights
        return replace(
            self,
            user=zero_users(self.user, users),
            query=zero_users(self.query, users),
            context=None if context is None else zero_users(context, users),
            context_weights=None if context_weights is None else zero_users(context_weights, users),
        )

    def squared_norms(self) -> Tensor:
        """‖g_i,f‖² by field [B, F], the slots of a repeated row added first."""
        pairs = self.batch.pairs
        assert pairs is not None
        num_fields = self.batch.user_slots.start.shape[1] + self.batch.item_slots.start.shape[1]
        width = self.query.shape[2] // self.batch.item_slots.start.shape[1]
        atoms = [self.user, self.query]
        if self.context is not None and self.context_weights is not None:
            atoms.append(self.context_weights.mT @ self.context)
        by_pair = F.embedding_bag(
            pairs.atom,
            torch.cat([atom.reshape(-1, width) for atom in atoms]),
            pairs.pair_start,
            mode="sum",
            per_sample_weights=pairs.weight,
        )
        sums = torch.segment_reduce(
            by_pair.square().sum(1), "sum", offsets=pairs.field_start, unsafe=True, initial=0
        )
        return sums.view(-1, num_fields)


def row_gradients(model: Recommender, batch: TaskBatch, d_inputs: InputGradients) -> RowGradients:
    """From gradients of the query's features and of the context to those of pooled features.

    The inverse way of ``set_inputs``: what reached the context goes on to the rows it was made of.
    """
    dtype = batch.query.row_weight.dtype  # that of parameters, also after a pass in bf16
    assert d_inputs.x.shared is not None
    user, query = d_inputs.x.shared.to(dtype), d_inputs.x.rows.to(dtype)
    if d_inputs.context is None:
        return RowGradients(user, query, None, None, batch)
    is_own = model.context == "own"
    weights = context_weights(model, batch.query if is_own else batch.support)
    by_component = d_inputs.context.to(dtype).view(
        batch.num_users, weights.shape[1], model.input_dim
    )
    to_user, to_item = by_component.split((user.shape[1], query.shape[2]), 2)
    user = user + (weights.sum(2, keepdim=True) * to_user).sum(1)
    if is_own:
        return RowGradients(user, query + (weights.mT @ to_item).to(dtype), None, None, batch)
    return RowGradients(user, query, to_item, weights, batch)


def _sum_by_item(rows: RowSet, gradient: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of the rows' gradients [B, n, ·] over the rows of each item: [I, ·]."""
    by_row = weights.unsqueeze(1).expand(rows.item.shape).reshape(-1)
    return F.embedding_bag(
        rows.by_item,
        gradient.flatten(0, 1),
        rows.item_start,
        mode="sum",
        per_sample_weights=by_row.index_select(0, rows.by_item),
    )


def _sum_context_by_item(
    rows: RowSet, context: Tensor, context_weights: Tensor, weights: Tensor
) -> Tensor:
    """``_sum_by_item`` of the support rows' gradients, which the context's [B, s, ·] make: [I, ·].

    Sums go straight from a user's s components to items, each row standing for s summands.
    """
    num_components, num_rows = context_weights.shape[1:]
    by_row = (context_weights * weights[:, None, None]).mT.flatten(0, 1)
    user = rows.by_item.div(num_rows, rounding_mode="floor").unsqueeze(1)
    component = torch.arange(num_components, dtype=user.dtype, device=user.device)
    return F.embedding_bag(
        (user * num_components + component).flatten(),
        context.flatten(0, 1),
        rows.item_start * num_components,
        mode="sum",
        per_sample_weights=by_row.index_select(0, rows.by_item).flatten(),
    )
