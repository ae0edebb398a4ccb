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

from greatmeta_dist.meta.batch import ItemPlan, TaskBatch
from greatmeta_dist.meta.layer_input import row_sums, user_norms, zero_users
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
    context_weights: list[Tensor]
    """[B of the bucket, s, n] of each length bucket, weight c of each support row in the context;
    none where it reaches no support row."""
    batch: TaskBatch

    def dots_with(self, rows: Tensor) -> Tensor:
        """⟨g_i, G⟩ by field [B, F], for G given at the batch's distinct rows [U, d].

        G is pooled as embeddings are, and multiplied with the pooled features' gradient.
        """
        batch, width = self.batch, rows.shape[1]
        item = pool_slots(rows, batch.item_slots)
        by_column = (self.query * gather_items(item, batch.query.item)).sum(1)
        if self.context is not None:
            of_support = batch.join(
                [
                    torch.bmm(weights, gather_items(item, bucket.rows.item))
                    for weights, bucket in zip(self.context_weights, batch.supports, strict=True)
                ]
            )
            by_column = by_column + (self.context * of_support).sum(1)
        user = self.user * pool_slots(rows, batch.user_slots)
        return torch.cat((user, by_column), 1).view(len(user), -1, width).sum(2)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Σ_i w_i g_i for weights [B], at the rows of the users' lanes: [U, d]."""
        unpool = self.batch.unpool
        item = _sum_by_item(self.batch.query_plan, self.query, weights)
        if self.context is not None:
            item += self._sum_context_by_item(self.context, weights)
        user = self.user * weights.unsqueeze(1)
        width = item.shape[1] // self.batch.item_slots.start.shape[1]
        atoms = torch.cat((user.view(-1, width), item.view(-1, width)))
        return F.embedding_bag(
            unpool.atom, atoms, unpool.row_start, mode="sum", per_sample_weights=unpool.weight
        )

    def _sum_context_by_item(self, context: Tensor, weights: Tensor) -> Tensor:
        """``_sum_by_item`` of the support rows' gradients, which the context's [B, s, ·] make.

        Sums go straight from a user's s components to items, each row standing for s summands.
        """
        plan, num_components = self.batch.support_plan, context.shape[1]
        by_row = torch.cat(
            [
                (of_rows * bucket.take(weights).view(-1, 1, 1)).mT.flatten(0, 1)
                for of_rows, bucket in zip(self.context_weights, self.batch.supports, strict=True)
            ]
        )
        component = torch.arange(num_components, device=context.device)
        return F.embedding_bag(
            torch.add(component, plan.user.unsqueeze(1), alpha=num_components).flatten(),
            context.flatten(0, 1),
            plan.start * num_components,
            mode="sum",
            per_sample_weights=by_row.index_select(0, plan.position).flatten(),
        )

    def norm_bounds(self) -> Tensor:
        """[B] a cheap bound on the norm of the pooled features' gradient.

        Finite where all its entries are. It is no bound on the gradient of the embedding rows,
        since a row can repeat within a user.
        """
        bound = user_norms(self.user) + user_norms(self.query)
        if self.context is not None:
            norms = self.batch.join([user_norms(weights) for weights in self.context_weights])
            bound = torch.addcmul(bound, user_norms(self.context), norms)
        return bound

    def zero_users(self, users: Tensor) -> "RowGradients":
        """The same with zeros for the users [B] where True."""
        return replace(
            self,
            user=zero_users(self.user, users),
            query=zero_users(self.query, users),
            context=None if self.context is None else zero_users(self.context, users),
            context_weights=[
                zero_users(weights, bucket.take(users))
                for weights, bucket in zip(self.context_weights, self.batch.supports, strict=False)
            ],
        )

    def squared_norms(self) -> Tensor:
        """‖g_i,f‖² by field [B, F], the slots of a repeated row added first."""
        pairs = self.batch.pairs
        assert pairs is not None
        num_fields = self.batch.user_slots.start.shape[1] + self.batch.item_slots.start.shape[1]
        width = self.query.shape[2] // self.batch.item_slots.start.shape[1]
        atoms = [self.user, self.query]
        if self.context is not None:
            atoms += [
                torch.bmm(weights.mT, bucket.take(self.context))
                for weights, bucket in zip(self.context_weights, self.batch.supports, strict=True)
            ]
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

    The inverse way of ``batch_inputs``: what reached the context goes on to the rows that made it.
    """
    dtype = batch.query.row_weight.dtype  # that of parameters, also after a pass in bf16
    assert d_inputs.x.shared is not None
    user, query = d_inputs.x.shared.to(dtype), d_inputs.x.rows.to(dtype)
    if d_inputs.context is None:
        return RowGradients(user, query, None, [], batch)
    is_own = model.context == "own"
    sets = [batch.query] if is_own else [bucket.rows for bucket in batch.supports]
    weights = [context_weights(model, rows) for rows in sets]
    by_component = d_inputs.context.to(dtype).view(
        batch.num_users, weights[0].shape[1], model.input_dim
    )
    to_user, to_item = by_component.split((user.shape[1], query.shape[2]), 2)
    totals = [row_sums(of_rows) for of_rows in weights]
    total = totals[0] if is_own else batch.join(totals)
    user = user + (total * to_user).sum(1)
    if is_own:
        to_rows = torch.bmm(weights[0].mT, to_item).to(dtype)
        return RowGradients(user, query + to_rows, None, [], batch)
    return RowGradients(user, query, to_item, weights, batch)


def _sum_by_item(plan: ItemPlan, gradient: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of the rows' gradients [B, n, ·] over the rows of each item: [I, ·]."""
    return F.embedding_bag(
        plan.position,
        gradient.flatten(0, 1),
        plan.start,
        mode="sum",
        per_sample_weights=weights.index_select(0, plan.user),
    )
