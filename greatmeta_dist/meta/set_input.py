"""The inputs of the model, made of embedding rows: features, context and kernel input of a set.

And how the kernel input's gradient reaches features and context. Shapes as in ``batch.py``; s
components of the context: 1, the mean of rows, or 2, with the label-weighted mean.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from greatmeta_dist.meta.batch import RowSet, TaskBatch
from greatmeta_dist.meta.layer_input import LayerInput, row_sums
from greatmeta_dist.meta.model import CONTEXT_COLUMNS, Recommender
from greatmeta_dist.meta.pooling import gather_items, pool_slots


@dataclass(frozen=True)
class SetInput:
    """What a set gives the model; the same in every pass."""

    x: LayerInput
    """[B, n, D] features of its rows; the user's fields are the shared columns."""
    context: LayerInput | None
    """[B, 1, C] what the encoder reads, C = s·D; None without encoder."""
    kernel_input: LayerInput | None
    """[B, n, D] what the kernel reads; None without kernel."""


@dataclass(frozen=True)
class InputGradients:
    """Gradients of a set's features and of its context."""

    x: LayerInput
    """[B, n, D]"""
    context: Tensor | None
    """[B, C]; None without encoder."""


@dataclass(frozen=True)
class BatchInputs:
    """What a batch's sets give the model."""

    supports: list[SetInput]
    """Of each length bucket's users."""
    query: SetInput
    """Of all users."""
    context: LayerInput | None
    """[B, 1, C] what the support sets say of every user; None without encoder."""


@dataclass(frozen=True)
class Features:
    """A batch's feature vectors x [B, n, D], looked up and pooled."""

    supports: list[LayerInput]
    """Of each length bucket's users."""
    query: LayerInput


def embed(batch: TaskBatch, rows: Tensor) -> Features:
    """Look up and pool a batch's features from its distinct embedding rows [U, d]."""
    user = pool_slots(rows, batch.user_slots)
    item = pool_slots(rows, batch.item_slots)
    supports = [
        LayerInput(gather_items(item, bucket.rows.item), bucket.take(user), is_fixed=True)
        for bucket in batch.supports
    ]
    return Features(supports, LayerInput(gather_items(item, batch.query.item), user, is_fixed=True))


def batch_inputs(model: Recommender, batch: TaskBatch, rows: Tensor) -> BatchInputs:
    """What the support and the query sets give the model, from the distinct rows [U, d]."""
    x = embed(batch, rows)
    if not model.has_encoder:
        supports = [SetInput(of_bucket, None, None) for of_bucket in x.supports]
        return BatchInputs(supports, SetInput(x.query, None, None), None)
    contexts = [
        make_context(model, of_bucket, bucket.rows)
        for of_bucket, bucket in zip(x.supports, batch.supports, strict=True)
    ]
    of_users = LayerInput(batch.join([context.rows for context in contexts]), is_fixed=True)
    of_query = make_context(model, x.query, batch.query) if model.context == "own" else of_users

    def joined(x: LayerInput, context: LayerInput) -> SetInput:
        return SetInput(x, context, kernel_input(model, x, context) if model.has_kernel else None)

    supports = [joined(*of_bucket) for of_bucket in zip(x.supports, contexts, strict=True)]
    return BatchInputs(supports, joined(x.query, of_query), of_users)


def context_weights(model: Recommender, rows: RowSet) -> Tensor:
    """[B, s, n] weight of each row in each component of the context."""
    if model.context == "own":
        return rows.row_weight.unsqueeze(1)
    return torch.stack((rows.row_weight, rows.row_weight * rows.context_label), dim=1)


def make_context(model: Recommender, x: LayerInput, rows: RowSet) -> LayerInput:
    """The context [B, 1, C] that a set makes: weighted means of its rows' x."""
    weights = context_weights(model, rows)
    assert x.shared is not None
    common = row_sums(weights) * x.shared.unsqueeze(1)
    context = torch.cat((common, torch.bmm(weights, x.rows)), 2)
    return LayerInput(context.flatten(1).unsqueeze(1), is_fixed=True)


def kernel_input(model: Recommender, x: LayerInput, context: LayerInput) -> LayerInput:
    """x times the label-weighted mean of the support's x: [B, n, D]."""
    assert x.shared is not None
    sizes = [model.input_dim, x.shared.shape[1], x.rows.shape[2]]
    _, of_user, of_items = context.rows.split(sizes, 2)
    return LayerInput(x.rows * of_items, x.shared * of_user.squeeze(1), is_fixed=True)


def context_features(model: Recommender, context: LayerInput | None) -> Tensor | None:
    """What the scheduler sees of the support's context [B, 1, C]: [B, ``context_feature_dim``].

    The first columns of every item field in its label-weighted half: which items the user liked.
    None where the model makes no context of a rated support.
    """
    if not model.has_support_gradient or context is None:
        return None
    start = model.input_dim + model.num_user_fields * model.embedding_dim
    fields = context.rows[:, 0, start:].unflatten(1, (model.num_item_fields, model.embedding_dim))
    return fields[:, :, :CONTEXT_COLUMNS].flatten(1)


def add_kernel_gradients(
    model: Recommender, query: SetInput, d_kernel_input: LayerInput, d_inputs: InputGradients
) -> InputGradients:
    """Add to the gradients ``d_inputs`` of x and the context what reaches them through the kernel.

    The kernel's input is x ⊙ m, m the label-weighted half of the context.

    d(x ⊙ m) = dx ⊙ m + x ⊙ dm; the row-wise products are summed over a user's rows.
    """
    assert query.context is not None
    assert d_inputs.context is not None
    x, d_x, d_context = query.x, d_inputs.x, d_inputs.context
    assert x.shared is not None
    assert d_kernel_input.shared is not None
    assert d_x.shared is not None
    num_shared = x.shared.shape[1]
    mean = query.context.rows[:, 0, model.input_dim :]
    d_x = LayerInput(
        torch.addcmul(d_x.rows, d_kernel_input.rows, mean[:, None, num_shared:]),
        torch.addcmul(d_x.shared, d_kernel_input.shared, mean[:, :num_shared]),
    )
    d_mean_shared, d_mean = d_context[:, model.input_dim :].tensor_split([num_shared], 1)
    columns = (
        d_context[:, : model.input_dim],
        d_mean_shared + d_kernel_input.shared * x.shared,
        d_mean + (d_kernel_input.rows * x.rows).sum(1),
    )
    return InputGradients(d_x, torch.cat(columns, 1))
