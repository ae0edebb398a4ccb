"""A pass over users' query sets in C, forward and backward. Shapes as in ``batch.py``."""

import torch
from torch import Tensor

from greatmeta_dist.meta.batch import SupportBucket, TaskBatch
from greatmeta_dist.meta.fast_weights import (
    BucketDeltas,
    DenseDelta,
    FastWeights,
    LowRankDelta,
    SharedWeights,
)
from greatmeta_dist.meta.layer_input import LayerInput
from greatmeta_dist.meta.linear_gradients import LinearGradients
from greatmeta_dist.meta.losses import Loss
from greatmeta_dist.meta.model import ONE_ROW_LAYERS, Recommender
from greatmeta_dist.meta.native.library import First, Query, Tensors, query
from greatmeta_dist.meta.passes import encoder_gradients, modulation
from greatmeta_dist.meta.set_input import InputGradients, SetInput


def query_pass(
    model: Recommender,
    batch: TaskBatch,
    given: SetInput,
    weights: SharedWeights | FastWeights,
    loss: Loss,
    *,
    to_inputs: bool,
) -> tuple[Tensor, dict[str, LinearGradients], InputGradients | None]:
    """Predictions [B, n], the query loss's gradients of every layer by user, and with
    ``to_inputs`` those of the set's features and context.

    ``given`` is what the query sets give the model. Weights that moved were adapted in C.
    """
    is_moved = isinstance(weights, FastWeights) and bool(weights.deltas)
    shared = weights.shared if isinstance(weights, FastWeights) else weights
    inputs: dict[str, LayerInput] = {}
    film = None
    if given.context is not None:
        film = modulation(model, given.context, weights, inputs).squeeze(1)
    results = _Results(model, given, film, to_inputs=to_inputs)
    tensors = Tensors()
    layers = _others(model, weights, given.x.num_shared)
    for bucket, moved in _buckets(batch, weights) if is_moved else [(None, None)]:
        first, users, num_support_rows = First(), None, 0
        num_users = batch.num_users
        if bucket is not None and moved is not None:
            first, users = tensors.first(moved, bucket.rows.row_weight), bucket.users
            num_users, num_support_rows = bucket.rows.row_weight.shape
        work = Query(
            call=tensors.call(
                model,
                given.x.rows,
                given.x.num_shared or 0,
                loss,
                users=users,
                num_users=num_users,
                num_support_rows=num_support_rows,
            ),
            sets=tensors.sets(given, batch.query, shared.apply("hidden_1", given.x)),
            layers=tensors.layers(layers, len(model.hidden), is_own=is_moved),
            first=first,
            first_weight=tensors.pointer(shared.layers["hidden_1.weight"]),
            **results.pointers(tensors),
        )
        work.sets.film = tensors.pointer(film)
        work.sets.d_film = tensors.pointer(results.d_film)
        query(work)
    return _gradients(model, given, weights, inputs, results)


class _Results:
    """What a pass writes."""

    def __init__(
        self, model: Recommender, given: SetInput, film: Tensor | None, *, to_inputs: bool
    ):
        x = given.x.rows
        num_users, num_rows, num_columns = x.shape
        num_shared = given.x.num_shared or 0
        self.prediction = x.new_empty(num_users, num_rows)
        self.d_prediction = x.new_empty(num_users, num_rows)
        self.d_total = x.new_empty(num_users, 1)
        self.hidden = [x.new_empty(num_users, num_rows, width) for width in model.hidden]
        self.delta = [x.new_empty(num_users, num_rows, width) for width in model.hidden]
        self.delta_sum = [x.new_empty(num_users, width) for width in model.hidden]
        self.d_film = None if film is None else torch.empty_like(film)
        self.mean, self.d_rows, self.d_shared, self.d_mean = None, None, None, None
        if not to_inputs:
            return
        self.d_rows = x.new_empty(num_users, num_rows, num_columns)
        self.d_shared = x.new_empty(num_users, num_shared)
        if model.has_kernel:
            assert given.context is not None
            self.mean = given.context.rows[:, 0, model.input_dim :].contiguous()
            self.d_mean = x.new_empty(num_users, num_shared + num_columns)

    def pointers(self, tensors: Tensors) -> dict[str, object]:
        """Of the fields of ``Query``."""
        single = ("prediction", "d_prediction", "d_total", "mean", "d_rows", "d_shared", "d_mean")
        return {
            **{name: tensors.pointer(getattr(self, name)) for name in single},
            **{k: tensors.pointers(getattr(self, k)) for k in ("hidden", "delta", "delta_sum")},
        }


def _buckets(
    batch: TaskBatch, weights: SharedWeights | FastWeights
) -> list[tuple[SupportBucket, LowRankDelta | DenseDelta]]:
    """The length buckets, and how far each one's first layers have moved."""
    assert isinstance(weights, FastWeights)
    moved = weights.deltas["hidden_1"]
    if isinstance(moved, BucketDeltas):
        return moved.buckets()
    return [(batch.supports[0], moved)]


def _others(
    model: Recommender, weights: SharedWeights | FastWeights, num_shared: int | None
) -> dict[str, DenseDelta]:
    """All row layers but the first: each user's, or the shared ones."""
    layers: dict[str, DenseDelta] = {}
    for name in model.layers:
        if name in (*ONE_ROW_LAYERS, "hidden_1"):
            continue
        if isinstance(weights, FastWeights) and weights.deltas:
            moved = weights.deltas[name]
            assert isinstance(moved, DenseDelta)
            layers[name] = moved
        else:
            shared = weights.shared if isinstance(weights, FastWeights) else weights
            cut = shared.weight(name, num_shared if name == "kernel" else None)
            layers[name] = DenseDelta(cut, shared.bias(name))
    return layers


def _gradients(
    model: Recommender,
    given: SetInput,
    weights: SharedWeights | FastWeights,
    inputs: dict[str, LayerInput],
    results: _Results,
) -> tuple[Tensor, dict[str, LinearGradients], InputGradients | None]:
    """As of ``query_pass``."""
    to_inputs = results.d_rows is not None
    grads: dict[str, LinearGradients] = {}
    d_context = None
    if results.d_film is not None:
        grads, d_context = encoder_gradients(
            model, inputs, weights, results.d_film, to_inputs=to_inputs
        )
    value = given.x
    for k, hidden in enumerate(results.hidden):
        grads[f"hidden_{k + 1}"] = LinearGradients(
            results.delta[k], results.delta_sum[k], value, True, (model.hidden[k],)
        )
        value = LayerInput(hidden)
    delta = results.d_prediction.unsqueeze(2)
    grads["output"] = LinearGradients(delta, results.d_total, value, True, (1,))
    if given.kernel_input is not None:
        grads["kernel"] = LinearGradients(delta, results.d_total, given.kernel_input, False, (1,))
    grads = {name: grads[name] for name in model.layers}
    if results.d_rows is None:
        return results.prediction, grads, None
    if results.d_mean is not None:
        assert d_context is not None
        d_context[:, model.input_dim :].add_(results.d_mean)
    d_x = LayerInput(results.d_rows, results.d_shared)
    return results.prediction, grads, InputGradients(d_x, d_context)
