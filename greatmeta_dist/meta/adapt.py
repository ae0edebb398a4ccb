"""Adaptation of A to every user of a batch at once, and the gradients taken on the way.

Layers are applied through a ``Tape``, which remembers what each layer saw and, after the backward
pass, what gradient reached its output. The backward pass never forms a weight gradient. A user's
fast weights are a displacement of the shared A, kept as factors or, where that is smaller, as a
matrix per user (DESIGN.md sections 2 and 3; paper algorithm 1). Shapes as in ``model.py``.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from greatmeta_dist.meta.gradients import LinearGradients, MetaGradient, RowGradients, TaskGradients
from greatmeta_dist.meta.model import Recommender, TaskBatch, pool_slots, set_loss

Layers = dict[str, Tensor]


@dataclass(frozen=True)
class InnerLoop:
    """How a user adapts: T steps of gradient descent at rate α on the support loss."""

    num_steps: int
    rate: float
    loss: Literal["mse", "bce"] = "mse"


@dataclass(frozen=True)
class Displacement:
    """How far every user's copy of one layer has moved: dense, or as the factors of its steps."""

    weight: Tensor | None = None
    """[B, out, in]"""
    bias: Tensor | None = None
    """[B, out]"""
    factors: LinearGradients | None = None

    def apply(self, value: Tensor) -> Tensor:
        """What the displacement adds to the layer's output: [B, n, in] → [B, n, out]."""
        if self.factors is not None:
            factors = self.factors
            out = (value @ factors.value.mT) @ factors.delta
            return out + factors.bias.unsqueeze(1) if factors.has_bias else out
        assert self.weight is not None
        if self.bias is None:
            return value @ self.weight.mT
        return torch.baddbmm(self.bias.unsqueeze(1), value, self.weight.mT)

    def descend(self, grads: LinearGradients, *, rate: float, num_steps: int) -> "Displacement":
        """Move by −rate · gradient; ``num_steps`` in all decide which form is the smaller."""
        step = -rate * grads.delta
        num_rows, num_out = step.shape[1:]
        num_in = grads.value.shape[2]
        if num_steps * num_rows * (num_out + num_in) < num_out * num_in:
            value = grads.value
            if self.factors is not None:
                step = torch.cat((self.factors.delta, step), 1)
                value = torch.cat((self.factors.value, value), 1)
            return Displacement(factors=LinearGradients(step, value, grads.has_bias))
        bias = step.sum(1) if grads.has_bias else None
        if self.weight is None:
            return Displacement(step.mT @ grads.value, bias)
        if bias is not None and self.bias is not None:
            bias = self.bias + bias
        return Displacement(torch.baddbmm(self.weight, step.mT, grads.value), bias)


class Tape:
    """Applies linear layers by name and remembers inputs and outputs for ``gradients``."""

    def __init__(self, layers: Layers, moved: dict[str, Displacement] | None = None):
        self.layers = layers
        self.moved = moved or {}
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        bias = self.layers.get(f"{name}.bias")
        out = torch.nn.functional.linear(value, self.layers[f"{name}.weight"], bias)
        if name in self.moved:
            out = out + self.moved[name].apply(value)
        if torch.is_grad_enabled() and not out.requires_grad:
            out.requires_grad_()
        self.inputs[name], self.outputs[name] = value, out
        return out

    def gradients(
        self, loss: Tensor, leaves: tuple[Tensor, ...] = ()
    ) -> tuple[dict[str, LinearGradients], tuple[Tensor, ...]]:
        """Every layer's per-user gradients of loss [B], and the gradients of the leaves."""
        names = list(self.outputs)
        found = torch.autograd.grad(loss.sum(), [*self.outputs.values(), *leaves])
        grads = {
            name: LinearGradients(delta, self.inputs[name].detach(), f"{name}.bias" in self.layers)
            for name, delta in zip(names, found, strict=False)
        }
        return grads, found[len(names) :]


@dataclass(frozen=True)
class Embedded:
    """A batch's feature vectors, looked up and pooled."""

    user: Tensor
    """[B, Fu·d]"""
    support: Tensor
    """[B, n, Fi·d]"""
    query: Tensor
    """[B, m, Fi·d]"""

    def inputs(self, which: Literal["support", "query"]) -> Tensor:
        """x [B, n, D] of one set's rows."""
        item = self.support if which == "support" else self.query
        user = self.user.unsqueeze(1).expand(-1, item.shape[1], -1)
        return torch.cat((user, item), -1)


def embed(batch: TaskBatch, rows: Tensor) -> Embedded:
    """Look up and pool a batch's features from its distinct embedding rows [U, d]."""
    user = pool_slots(rows, batch.user_slots)
    item = pool_slots(rows, batch.item_slots)
    return Embedded(user, item[batch.support.item], item[batch.query.item])


def predict_set(
    model: Recommender,
    batch: TaskBatch,
    x: Embedded,
    layer: Tape,
    which: Literal["support", "query"],
) -> Tensor:
    """Predictions [B, n] for one set, its context made as the model says."""
    inputs = x.inputs(which)
    context = None
    if model.has_encoder and model.context == "support":
        support = inputs if which == "support" else x.inputs("support")
        context = model.summarise(support, batch.support)
    elif model.has_encoder:
        context = model.summarise(inputs, batch.support if which == "support" else batch.query)
    return model.predict(inputs, context, layer)


def adapt(
    model: Recommender, batch: TaskBatch, x: Embedded, layers: Layers, inner: InnerLoop
) -> dict[str, Displacement]:
    """T inner steps for every user at once: how each layer of A_i differs from A's."""
    moved: dict[str, Displacement] = {}
    for _ in range(inner.num_steps):
        tape = Tape(layers, moved)
        loss = set_loss(predict_set(model, batch, x, tape, "support"), batch.support, inner.loss)
        grads, _ = tape.gradients(loss)
        moved = {
            name: moved.get(name, Displacement()).descend(
                grad, rate=inner.rate, num_steps=inner.num_steps
            )
            for name, grad in grads.items()
        }
    return moved


@dataclass(frozen=True)
class Tasks:
    """What a lane's users say in one step."""

    loss: Tensor
    """[B] query loss after adaptation."""
    loss_before: Tensor
    """[B] query loss at the unadapted point."""
    adapted: TaskGradients
    """g_i."""
    unadapted: dict[str, LinearGradients]
    """g⁰_i, of A only."""


def task_gradients(
    model: Recommender, batch: TaskBatch, rows: Tensor, layers: Layers, inner: InnerLoop
) -> Tasks:
    """Steps 1 and 2 of DESIGN.md section 2: adapt, then differentiate the query loss."""
    x = embed(batch, rows)
    moved = adapt(model, batch, x, layers, inner)

    tape = Tape(layers)
    loss_before = set_loss(predict_set(model, batch, x, tape, "query"), batch.query, inner.loss)
    unadapted, _ = tape.gradients(loss_before)

    leaves = [x.user, x.query]
    if model.has_encoder and model.context == "support":
        leaves.append(x.support)
    for leaf in leaves:
        leaf.requires_grad_()
    tape = Tape(layers, moved)
    loss = set_loss(predict_set(model, batch, x, tape, "query"), batch.query, inner.loss)
    grads, found = tape.gradients(loss, tuple(leaves))
    atoms = torch.cat([g.reshape(-1, model.embedding_dim) for g in found])
    row_grads = RowGradients.from_atoms(
        atoms,
        batch.plan,
        num_users=batch.num_users,
        num_fields=model.num_user_fields + model.num_item_fields,
        num_rows=batch.rows.shape[0],
    )
    return Tasks(loss.detach(), loss_before.detach(), TaskGradients(grads, row_grads), unadapted)


def query_gradient(
    model: Recommender,
    batch: TaskBatch,
    rows: Tensor,
    layers: Layers,
    loss: Literal["mse", "bce"],
) -> MetaGradient:
    """∇_θ Σ_i L(Q_i; θ), no adaptation: one ordinary backward pass for the whole batch."""
    rows = rows.detach().requires_grad_()
    leaves = {name: p.detach().requires_grad_() for name, p in layers.items()}
    prediction = predict_set(model, batch, embed(batch, rows), Tape(leaves), "query")
    total = set_loss(prediction, batch.query, loss).sum()
    *grads, row_grad = torch.autograd.grad(total, [*leaves.values(), rows])
    return MetaGradient(dict(zip(leaves, grads, strict=True)), row_grad)


@torch.no_grad()
def predict_query(
    model: Recommender, batch: TaskBatch, rows: Tensor, layers: Layers, inner: InnerLoop
) -> tuple[Tensor, Tensor]:
    """Predictions [B, n] for every user's query rows: unadapted, and after adaptation."""
    x = embed(batch, rows)
    with torch.enable_grad():
        moved = adapt(model, batch, x, layers, inner)
    return (
        predict_set(model, batch, x, Tape(layers), "query"),
        predict_set(model, batch, x, Tape(layers, moved), "query"),
    )
