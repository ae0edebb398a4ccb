"""A pass over users' query sets in C, forward and backward. Shapes as in ``batch.py``."""

import torch
from torch import Tensor

from greatmeta_dist.meta.batch import SupportBucket, TaskBatch
from greatmeta_dist.meta.fast_weights import (
    BucketDeltas,
    FastWeights,
    InnerLoop,
    SharedWeights,
)
from greatmeta_dist.meta.layer_input import LayerInput
from greatmeta_dist.meta.linear_gradients import LinearGradients
from greatmeta_dist.meta.model import ONE_ROW_LAYERS, Recommender
from greatmeta_dist.meta.native.library import OwnDelta, Query, Tensors, num_delta_rows, query
from greatmeta_dist.meta.passes import encoder_gradients, modulation
from greatmeta_dist.meta.set_input import InputGradients, SetInput


def query_pass(
    model: Recommender,
    batch: TaskBatch,
    given: SetInput,
    weights: SharedWeights | FastWeights,
    inner: InnerLoop,
    *,
    to_inputs: bool,
) -> tuple[Tensor, dict[str, LinearGradients], InputGradients | None]:
    """Predictions [B, n], the query loss's gradients of every layer by user, and with
    ``to_inputs`` those of the set's features and context.

    ``given`` is what the query sets give the model. Weights that moved were adapted in C.
    """
    inputs: dict[str, LayerInput] = {}
    film = None
    if given.context is not None:
        film = modulation(model, given.context, weights, inputs).squeeze(1)
    results = _Results(model, given, film, to_inputs=to_inputs)
    _run(model, batch, given, weights, inner, film, results)
    return _gradients(model, given, weights, inputs, results)


def predict(
    model: Recommender,
    batch: TaskBatch,
    given: SetInput,
    weights: SharedWeights | FastWeights,
    inner: InnerLoop,
) -> Tensor:
    """The predictions [B, n] alone."""
    film = None
    if given.context is not None:
        film = modulation(model, given.context, weights, {}).squeeze(1)
    results = _Results(model, given, None, to_inputs=False, has_gradients=False)
    _run(model, batch, given, weights, inner, film, results)
    return results.prediction


class _Results:
    """What a pass writes."""

    def __init__(
        self,
        model: Recommender,
        given: SetInput,
        film: Tensor | None,
        *,
        to_inputs: bool,
        has_gradients: bool = True,
    ):
        x = given.x.rows
        num_users, num_rows, num_columns = x.shape
        num_shared = given.x.num_shared or 0
        self.prediction = x.new_empty(num_users, num_rows)
        self.d_prediction, self.d_total = None, None
        self.hidden: list[Tensor] = []
        self.delta: list[Tensor] = []
        self.delta_sum: list[Tensor] = []
        self.d_film = None
        self.mean, self.d_rows, self.d_shared, self.d_mean = None, None, None, None
        if not has_gradients:
            return
        self.d_prediction = torch.empty_like(self.prediction)
        self.d_total = x.new_empty(num_users, 1)
        self.hidden = [x.new_empty(num_users, num_rows, width) for width in model.hidden]
        self.delta = [torch.empty_like(hidden) for hidden in self.hidden]
        self.delta_sum = [x.new_empty(num_users, width) for width in model.hidden]
        self.d_film = None if film is None else torch.empty_like(film)
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


def _run(
    model: Recommender,
    batch: TaskBatch,
    given: SetInput,
    weights: SharedWeights | FastWeights,
    inner: InnerLoop,
    film: Tensor | None,
    results: _Results,
) -> None:
    """Write ``results``, bucket by bucket where layers have moved, else at once."""
    tensors, x = Tensors(given.x.rows), given.x
    shared = weights.shared if isinstance(weights, FastWeights) else weights
    pointers = results.pointers(tensors)
    for bucket, deltas in _by_bucket(batch, weights):
        rows = None if bucket is None else bucket.rows.row_weight
        work = Query(
            call=tensors.call(
                model,
                x,
                inner.loss,
                users=None if bucket is None else bucket.users,
                num_users=batch.num_users if rows is None else len(rows),
                num_delta_rows=num_delta_rows(deltas.values()),
            ),
            sets=tensors.sets(given, batch.query, shared.apply("hidden_1", x)),
            layers=tensors.layers(
                model, shared, deltas, num_steps=inner.num_steps, num_shared=x.num_shared
            ),
            num_support_rows=0 if rows is None else rows.shape[1],
            support_weight=tensors.pointer(rows),
            **pointers,
        )
        work.sets.film = tensors.pointer(film)
        work.sets.d_film = tensors.pointer(results.d_film)
        query(work)


def _by_bucket(
    batch: TaskBatch, weights: SharedWeights | FastWeights
) -> list[tuple[SupportBucket | None, dict[str, OwnDelta]]]:
    """Each length bucket, and how far its users' row layers have moved; one entry where none
    has."""
    if isinstance(weights, SharedWeights) or not weights.deltas:
        return [(None, {})]
    of_rows = {k: v for k, v in weights.deltas.items() if k not in ONE_ROW_LAYERS}
    return [
        (
            bucket,
            {k: v.deltas[at] if isinstance(v, BucketDeltas) else v for k, v in of_rows.items()},
        )
        for at, bucket in enumerate(batch.supports)
    ]


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
    assert results.d_prediction is not None
    assert results.d_total is not None
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
