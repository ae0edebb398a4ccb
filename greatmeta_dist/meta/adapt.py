"""Adaptation of A to every user of a batch at once, and the gradients taken at the adapted point.

DESIGN.md section 2, steps 1 and 2; paper algorithm 1. Shapes as in ``batch.py``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import record_function

from greatmeta_dist.meta.batch import RowSet, TaskBatch
from greatmeta_dist.meta.fast_weights import FastWeights, InnerLoop, SharedWeights, joined
from greatmeta_dist.meta.gradients import Layers, TaskGradients
from greatmeta_dist.meta.layer_input import LayerInput, all_finite
from greatmeta_dist.meta.linear_gradients import LinearGradients
from greatmeta_dist.meta.losses import loss_gradient, set_loss
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.meta.native.library import suits
from greatmeta_dist.meta.native.query import predict, query_pass
from greatmeta_dist.meta.native.row_layers import RowLayers
from greatmeta_dist.meta.passes import backward, encoder_gradients, forward, modulation
from greatmeta_dist.meta.row_gradients import row_gradients
from greatmeta_dist.meta.set_input import (
    BatchInputs,
    InputGradients,
    SetInput,
    batch_inputs,
    context_features,
)
from greatmeta_dist.meta.user_networks import UserNetworks


@dataclass(frozen=True)
class TaskResults:
    """What adapting to a batch's users gave.

    Of a user whose loss or gradient g_i is not finite, losses are nan and all else is zeros. g⁰_i
    is not checked here: factors that are read from one that is not finite are not finite either,
    and ``UserStatistics.is_finite`` sees these.
    """

    losses: Tensor
    """[B, 2] query loss after adaptation, and at the unadapted point; [B, 1] without the latter."""
    gradients: TaskGradients
    """g_i, of θ, taken at the adapted point."""
    unadapted_layers: dict[str, LinearGradients] | None
    """g⁰_i, of A only, taken at the unadapted point; None if not asked for."""
    context_features: Tensor | None
    """[B, ``context_feature_dim``] of the support's context; None where the model has none."""

    @property
    def loss(self) -> Tensor:
        """[B] query loss after adaptation."""
        return self.losses[:, 0]


def adapt(
    model: Recommender,
    rows: RowSet,
    support: SetInput,
    shared: SharedWeights,
    inner: InnerLoop,
) -> FastWeights:
    """T inner steps for every user of a length bucket at once, on the support sets (step 1)."""
    weights = FastWeights(shared, {})
    for _ in range(inner.num_steps):
        record = forward(model, support, weights)
        d_prediction = loss_gradient(record.prediction, rows, inner.loss)
        grads, _ = backward(model, record, d_prediction, weights, to_inputs=False)
        weights = weights.sgd_step(grads, inner)
    return weights


def adapt_all(
    model: Recommender,
    batch: TaskBatch,
    inputs: BatchInputs,
    shared: SharedWeights,
    inner: InnerLoop,
) -> FastWeights:
    """``adapt`` for every user of a batch, bucket by bucket."""
    if inner.is_native and inner.num_steps and suits(model, inputs.query.x.rows):
        return _adapt_all_natively(model, batch, inputs, shared, inner)
    by_bucket = [
        adapt(model, bucket.rows, support, shared, inner)
        for bucket, support in zip(batch.supports, inputs.supports, strict=True)
    ]
    return joined(by_bucket, batch)


def _adapt_all_natively(
    model: Recommender,
    batch: TaskBatch,
    inputs: BatchInputs,
    shared: SharedWeights,
    inner: InnerLoop,
) -> FastWeights:
    """The same, in C but for encoder and FiLM, which are products of all users at once."""
    row_layers = RowLayers(model, batch, inputs.supports, shared, inner)
    one_row_layers = FastWeights(shared, {})
    for _ in range(inner.num_steps):
        if inputs.context is None:
            row_layers.step(None)
            continue
        seen: dict[str, LayerInput] = {}
        film = modulation(model, inputs.context, one_row_layers, seen)
        d_film = row_layers.step(film.squeeze(1))
        assert d_film is not None
        grads, _ = encoder_gradients(model, seen, one_row_layers, d_film, to_inputs=False)
        one_row_layers = one_row_layers.sgd_step(grads, inner)
    return FastWeights(shared, {**one_row_layers.deltas, **row_layers.deltas()})


def task_results(
    model: Recommender,
    batch: TaskBatch,
    rows: Tensor,
    layers: Layers,
    inner: InnerLoop,
    *,
    has_unadapted: bool,
) -> TaskResults:
    """Adapt to the support sets, then take the query loss's gradients (steps 1 and 2).

    ``rows`` [U, d] are the batch's distinct embedding rows.
    """
    with record_function("meta/embed"):
        inputs = batch_inputs(model, batch, rows)
    shared = SharedWeights(layers)
    with record_function("meta/inner loop"):
        fast = adapt_all(model, batch, inputs, shared, inner)
    with record_function("meta/query"):
        prediction, gradients = _query_gradients(model, batch, inputs.query, fast, inner)
        loss = set_loss(prediction, batch.query, inner.loss)
        features = context_features(model, inputs.context)
        if not has_unadapted:
            return _zero_nonfinite(TaskResults(loss.unsqueeze(1), gradients, None, features))
        prediction, unadapted_layers, _ = _pass(
            model, batch, inputs.query, shared, inner, to_inputs=False
        )
        loss_before = set_loss(prediction, batch.query, inner.loss)
    losses = torch.stack((loss, loss_before), 1)
    return _zero_nonfinite(TaskResults(losses, gradients, unadapted_layers, features))


def unadapted_query_gradients(
    model: Recommender, batch: TaskBatch, rows: Tensor, layers: Layers, inner: InnerLoop
) -> TaskGradients:
    """Every user's ∇_θ L(Q_i; θ), without adaptation; zeros where it is not finite."""
    query = batch_inputs(model, batch, rows).query
    _, gradients = _query_gradients(model, batch, query, SharedWeights(layers), inner)
    is_nonfinite = ~gradients.is_finite()
    return gradients.zero_users(is_nonfinite) if _may_be_any(is_nonfinite) else gradients


def predict_query(
    model: Recommender, batch: TaskBatch, rows: Tensor, layers: Layers, inner: InnerLoop
) -> tuple[Tensor, Tensor]:
    """Predictions [B, n] for every user's query rows: unadapted, and after adaptation."""
    inputs = batch_inputs(model, batch, rows)
    shared = SharedWeights(layers)
    fast = adapt_all(model, batch, inputs, shared, inner)
    if inner.is_native and suits(model, inputs.query.x.rows):
        unadapted, adapted = (
            predict(model, batch, inputs.query, weights, inner) for weights in (shared, fast)
        )
        return unadapted, adapted
    unadapted = forward(model, inputs.query, shared).prediction
    return unadapted, forward(model, inputs.query, fast).prediction


def adapted_networks(
    model: Recommender, batch: TaskBatch, rows: Tensor, layers: Layers, inner: InnerLoop
) -> UserNetworks:
    """Every user's adapted model as a function of an item's features; no query is read."""
    inputs = batch_inputs(model, batch, rows)
    fast = adapt_all(model, batch, inputs, SharedWeights(layers), inner)
    return UserNetworks.of(model, inputs.query, fast)


def _query_gradients(
    model: Recommender,
    batch: TaskBatch,
    query: SetInput,
    weights: SharedWeights | FastWeights,
    inner: InnerLoop,
) -> tuple[Tensor, TaskGradients]:
    """Predictions [B, n] of the query sets, and every user's gradient of θ of its query loss."""
    prediction, layers, d_inputs = _pass(model, batch, query, weights, inner, to_inputs=True)
    assert d_inputs is not None
    return prediction, TaskGradients(layers, row_gradients(model, batch, d_inputs))


def _pass(
    model: Recommender,
    batch: TaskBatch,
    query: SetInput,
    weights: SharedWeights | FastWeights,
    inner: InnerLoop,
    *,
    to_inputs: bool,
) -> tuple[Tensor, dict[str, LinearGradients], InputGradients | None]:
    """The same, of A and of what the query sets give the model; as ``passes.backward``."""
    if inner.is_native and suits(model, query.x.rows):
        return query_pass(model, batch, query, weights, inner, to_inputs=to_inputs)
    record = forward(model, query, weights)
    d_prediction = loss_gradient(record.prediction, batch.query, inner.loss)
    grads, d_inputs = backward(model, record, d_prediction, weights, to_inputs=to_inputs)
    return record.prediction, grads, d_inputs


def _zero_nonfinite(results: TaskResults) -> TaskResults:
    """Zeros for users whose loss or gradient g_i is not finite (DESIGN.md section 7).

    A weight of 0 would not do: 0 times infinity is nan, and would reach θ.
    """
    is_nonfinite = ~(all_finite(results.losses) & results.gradients.is_finite())
    if not _may_be_any(is_nonfinite):
        return results
    unadapted_layers, features = results.unadapted_layers, results.context_features
    if unadapted_layers is not None:
        unadapted_layers = {
            name: grads.zero_users(is_nonfinite) for name, grads in unadapted_layers.items()
        }
    if features is not None:
        features = features.masked_fill(is_nonfinite.unsqueeze(1), 0)
    return TaskResults(
        results.losses.masked_fill(is_nonfinite.unsqueeze(1), torch.nan),
        results.gradients.zero_users(is_nonfinite),
        unadapted_layers,
        features,
    )


def _may_be_any(mask: Tensor) -> bool:
    """Whether any entry is True. On a GPU always True: knowing would make the host wait."""
    return mask.device.type != "cpu" or bool(mask.any())
