"""Adaptation of A to every user of a batch at once, and the gradients taken on the way.

A user's fast weights are the shared A and a displacement, kept as factors or, where that is
smaller, as a matrix per user (DESIGN.md sections 2 and 3; paper algorithm 1). Shapes as in
``batch.py``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import record_function

from greatmeta_dist.meta.batch import TaskBatch
from greatmeta_dist.meta.gradients import (
    LayerInput,
    LinearGradients,
    RowGradients,
    TaskGradients,
    pick,
    pool_slots,
)
from greatmeta_dist.meta.model import (
    InputGradients,
    Loss,
    Pass,
    Recommender,
    SetInput,
    Weights,
    loss_gradient,
    set_loss,
)

Layers = dict[str, Tensor]


@dataclass(frozen=True)
class InnerLoop:
    """How a user adapts: T steps of gradient descent at rate α on the support loss."""

    num_steps: int
    learning_rate: float
    loss: Loss = "mse"


class SharedWeights:
    """A, the same for all users; what it makes of a fixed input is computed once."""

    def __init__(self, layers: Layers):
        self.layers = layers
        self._seen: dict[str, list[tuple[LayerInput, Tensor]]] = {}

    def apply(self, name: str, value: LayerInput) -> Tensor:
        for known, out in self._seen.get(name, ()):
            if known is value:
                return out
        out = value.linear(self.layers[f"{name}.weight"], self.layers.get(f"{name}.bias"))
        if value.is_fixed:
            self._seen.setdefault(name, []).append((value, out))
        return out

    def vjp(self, name: str, value: LayerInput, delta: Tensor, total: Tensor) -> LayerInput:
        return value.vjp(self.layers[f"{name}.weight"], delta, total)


@dataclass(frozen=True)
class LowRankDelta:
    """How far every user's layer has moved, Σ_r δ_r v_rᵀ with the rate in the δ, as factors."""

    delta: Tensor
    """[B, r, out]"""
    value: LayerInput
    """[B, r, in]"""
    has_bias: bool


@dataclass(frozen=True)
class DenseDelta:
    """Every user's own copy of a layer."""

    weight: Tensor
    """[B, out, in]"""
    bias: Tensor | None
    """[B, out]"""


class FastWeights:
    """Every user's A_i: the shared A, and how far each layer has moved from it."""

    def __init__(self, shared: SharedWeights, moves: dict[str, LowRankDelta | DenseDelta]):
        self.shared = shared
        self.moves = moves

    def apply(self, name: str, value: LayerInput) -> Tensor:
        move = self.moves.get(name)
        if isinstance(move, DenseDelta):
            return value.linear(move.weight, move.bias)
        out = self.shared.apply(name, value)
        if move is None:
            return out
        return torch.baddbmm(out, value.gram(move.value, has_bias=move.has_bias), move.delta)

    def vjp(self, name: str, value: LayerInput, delta: Tensor, total: Tensor) -> LayerInput:
        move = self.moves.get(name)
        if isinstance(move, DenseDelta):
            return value.vjp(move.weight, delta, total)
        pulled = self.shared.vjp(name, value, delta, total)
        if move is None:
            return pulled
        moved = move.value.combine(delta @ move.delta.mT)
        if pulled.shared is None or moved.shared is None:
            return LayerInput(pulled.rows + moved.rows)
        return LayerInput(pulled.rows + moved.rows, pulled.shared + moved.shared)

    def sgd_step(self, grads: dict[str, LinearGradients], inner: InnerLoop) -> "FastWeights":
        """One inner step: A_i − α g_i."""
        return FastWeights(
            self.shared, {name: self._moved(name, grad, inner) for name, grad in grads.items()}
        )

    def _moved(
        self, name: str, grad: LinearGradients, inner: InnerLoop
    ) -> LowRankDelta | DenseDelta:
        """Factors where they are the cheaper form over all T steps, else a matrix per user.

        Of a fixed input there is one Gram matrix, in place of a matrix formed and applied T times.
        """
        num_rows, num_out = grad.delta.shape[1:]
        num_in = self.shared.layers[f"{name}.weight"].shape[1]
        move = self.moves.get(name)
        if grad.value.is_fixed:
            is_small = num_rows <= min(num_in, 2 * inner.num_steps * num_out)
        else:
            is_small = inner.num_steps * num_rows * (num_out + num_in) < num_out * num_in
        if not is_small:
            return self._dense(name, grad, move, inner.learning_rate)
        delta, value = -inner.learning_rate * grad.delta, grad.value
        if isinstance(move, LowRankDelta):
            if move.value is value:
                delta = move.delta + delta
            else:
                delta = torch.cat((move.delta, delta), 1)
                value = LayerInput(torch.cat((move.value.rows, value.rows), 1))
        return LowRankDelta(delta, value, grad.has_bias)

    def _dense(
        self, name: str, grad: LinearGradients, move: LowRankDelta | DenseDelta | None, rate: float
    ) -> DenseDelta:
        if isinstance(move, DenseDelta):
            weight, bias = move.weight, move.bias
        else:
            weight = self.shared.layers[f"{name}.weight"].expand(len(grad.delta), -1, -1)
            bias = self.shared.layers.get(f"{name}.bias")
        weight = torch.add(weight, grad.products(), alpha=-rate)
        return DenseDelta(
            weight, None if bias is None else torch.add(bias, grad.total, alpha=-rate)
        )


@dataclass(frozen=True)
class Features:
    """A batch's feature vectors, looked up and pooled."""

    support: LayerInput
    query: LayerInput


def embed(batch: TaskBatch, rows: Tensor) -> Features:
    """Look up and pool a batch's features from its distinct embedding rows [U, d]."""
    user = pool_slots(rows, batch.user_slots)
    item = pool_slots(rows, batch.item_slots)
    return Features(
        LayerInput(pick(item, batch.support.item), user, is_fixed=True),
        LayerInput(pick(item, batch.query.item), user, is_fixed=True),
    )


def set_inputs(model: Recommender, batch: TaskBatch, rows: Tensor) -> tuple[SetInput, SetInput]:
    """What the support and the query sets give the model, from the distinct rows [U, d]."""
    x = embed(batch, rows)
    if not model.has_encoder:
        return SetInput(x.support, None, None), SetInput(x.query, None, None)
    support = query = model.summarise(x.support, batch.support)
    if model.context == "own":
        query = model.summarise(x.query, batch.query)

    def given(x: LayerInput, context: LayerInput) -> SetInput:
        return SetInput(x, context, model.like(x, context) if model.has_kernel else None)

    return given(x.support, support), given(x.query, query)


def adapt(
    model: Recommender,
    batch: TaskBatch,
    support: SetInput,
    shared: SharedWeights,
    inner: InnerLoop,
) -> FastWeights:
    """T inner steps for every user at once, on the support sets."""
    weights = FastWeights(shared, {})
    for _ in range(inner.num_steps):
        seen = model.forward(support, weights)
        d_prediction = loss_gradient(seen.prediction, batch.support, inner.loss)
        grads, _ = model.backward(seen, d_prediction, weights, to_inputs=False)
        weights = weights.sgd_step(grads, inner)
    return weights


@dataclass(frozen=True)
class Tasks:
    """What a lane's users say in one step."""

    losses: Tensor
    """[B, 2] query loss after adaptation, and at the unadapted point if that was asked for; nan for
    a user whose loss or gradient is not finite, and whose gradients are zeros."""
    adapted: TaskGradients
    """g_i."""
    unadapted: dict[str, LinearGradients] | None
    """g⁰_i, of A only; None if not asked for."""
    context_features: Tensor | None
    """[B, ``context_feature_dim``] of the support's context; None where the model makes none of a rated
    support."""

    @property
    def loss(self) -> Tensor:
        """[B] query loss after adaptation."""
        return self.losses[:, 0]


def task_gradients(
    model: Recommender,
    batch: TaskBatch,
    rows: Tensor,
    layers: Layers,
    inner: InnerLoop,
    *,
    has_unadapted: bool,
) -> Tasks:
    """Adapt to the support sets, then take the query loss's gradients (section 2, steps 1, 2)."""
    with record_function("meta/embed"):
        support, query = set_inputs(model, batch, rows)
    shared = SharedWeights(layers)
    with record_function("meta/inner loop"):
        fast = adapt(model, batch, support, shared, inner)
    with record_function("meta/query"):
        seen = model.forward(query, fast)
        adapted = _query_gradients(model, batch, seen, fast, inner.loss)
        loss = set_loss(seen.prediction, batch.query, inner.loss)
        context_features = _context_features(model, support)
        if not has_unadapted:
            return _without_nonfinite(Tasks(loss.unsqueeze(1), adapted, None, context_features))
        seen = model.forward(query, shared)
        d_prediction = loss_gradient(seen.prediction, batch.query, inner.loss)
        unadapted, _ = model.backward(seen, d_prediction, shared, to_inputs=False)
        loss_before = set_loss(seen.prediction, batch.query, inner.loss)
    return _without_nonfinite(
        Tasks(torch.stack((loss, loss_before), 1), adapted, unadapted, context_features)
    )


def _without_nonfinite(tasks: Tasks) -> Tasks:
    """Users whose loss or gradient is not finite count nothing (DESIGN.md section 7)."""
    is_nonfinite = ~(tasks.losses.isfinite().all(1) & tasks.adapted.is_finite())
    if not _may_be_any(is_nonfinite):
        return tasks
    before, context_features = tasks.unadapted, tasks.context_features
    return Tasks(
        tasks.losses.masked_fill(is_nonfinite.unsqueeze(1), torch.nan),
        tasks.adapted.without(is_nonfinite),
        None if before is None else {k: g.without(is_nonfinite) for k, g in before.items()},
        None
        if context_features is None
        else context_features.masked_fill(is_nonfinite.unsqueeze(1), 0),
    )


def _may_be_any(mask: Tensor) -> bool:
    """Whether any is True, as far as it can be known without waiting for a GPU."""
    return mask.device.type != "cpu" or bool(mask.any())


def _context_features(model: Recommender, support: SetInput) -> Tensor | None:
    if not model.has_support_gradient or support.context is None:
        return None
    return model.context_features(support.context.rows[:, 0])


def query_gradients(
    model: Recommender, batch: TaskBatch, rows: Tensor, layers: Layers, loss: Loss
) -> TaskGradients:
    """Every user's ∇_θ L(Q_i; θ), without adaptation; zeros where it is not finite."""
    _, query = set_inputs(model, batch, rows)
    shared = SharedWeights(layers)
    found = _query_gradients(model, batch, model.forward(query, shared), shared, loss)
    is_nonfinite = ~found.is_finite()
    return found.without(is_nonfinite) if _may_be_any(is_nonfinite) else found


def _query_gradients(
    model: Recommender, batch: TaskBatch, seen: Pass, weights: Weights, loss: Loss
) -> TaskGradients:
    d_prediction = loss_gradient(seen.prediction, batch.query, loss)
    grads, d_inputs = model.backward(seen, d_prediction, weights, to_inputs=True)
    assert d_inputs is not None
    return TaskGradients(grads, _row_gradients(model, batch, d_inputs))


def _row_gradients(model: Recommender, batch: TaskBatch, found: InputGradients) -> RowGradients:
    """From the gradients of the query's features and context to those of embedding rows."""
    kind = batch.query.row_weight.dtype
    assert found.x.shared is not None
    user, query = found.x.shared.to(kind), found.x.rows.to(kind)
    if found.context is None:
        return RowGradients(user, query, None, None, batch)
    is_own = model.context == "own"
    shares = model.shares(batch.query if is_own else batch.support)
    by_share = found.context.to(kind).view(batch.num_users, shares.shape[1], model.input_dim)
    through_user, through_item = by_share.split((user.shape[1], query.shape[2]), 2)
    user = user + (shares.sum(2, keepdim=True) * through_user).sum(1)
    if is_own:
        spread = (shares.mT @ through_item).to(kind)
        return RowGradients(user, query + spread, None, None, batch)
    return RowGradients(user, query, through_item, shares, batch)


def predict_query(
    model: Recommender, batch: TaskBatch, rows: Tensor, layers: Layers, inner: InnerLoop
) -> tuple[Tensor, Tensor]:
    """Predictions [B, n] for every user's query rows: unadapted, and after adaptation."""
    support, query = set_inputs(model, batch, rows)
    shared = SharedWeights(layers)
    fast = adapt(model, batch, support, shared, inner)
    return tuple(model.forward(query, w).prediction for w in (shared, fast))  # type: ignore[return-value]
