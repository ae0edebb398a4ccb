"""Adaptation to one user, with every known rating's share of the fast weights.

The loss of a support set is a sum over its rows, so each inner step adds, to every layer of A, a
sum over rows of −α δ vᵀ: here they are kept row by row, in float64 (DESIGN.md section 3). Encoder
and FiLM see one input for all rows, and their δ is a sum over rows, too.

Shapes: n known ratings, D input width, T inner steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from greatmeta_dist.meta.activations import ACTIVATIONS
from greatmeta_dist.meta.fast_weights import InnerLoop
from greatmeta_dist.meta.model import Recommender

Layers = Mapping[str, Tensor]


@dataclass(frozen=True)
class Support:
    """What the model sees of one user's known ratings."""

    x: Tensor
    """[n, D]"""
    context: Tensor
    """[2, D]: the mean of rows, and of rows times labels; both shrunk."""
    label: Tensor
    """[n] in the model's units, or clicks."""
    logit: Tensor | None
    """[n] of clicks, the logit of the prior probability."""
    row_weight: Tensor
    """[n]"""


@dataclass(frozen=True)
class RatingMoves:
    """How far one layer was moved, by known rating."""

    scaled_delta: Tensor
    """[T, n, out] −α δ of each step and rating."""
    inputs: Tensor
    """[T, n, in] what the layer saw; [T, 1, in] where it sees one input."""
    has_bias: bool

    def at(self, value: Tensor) -> Tensor:
        """[n, out] what each rating's move adds to the layer's output at an input [in]."""
        product = self.inputs @ value + float(self.has_bias)
        return (product.unsqueeze(2) * self.scaled_delta).sum(0)


@dataclass(frozen=True)
class Adapted:
    """A user's A, and what moved it."""

    layers: Layers
    moves: Mapping[str, RatingMoves]


def adapt_by_rating(
    model: Recommender, layers: Layers, support: Support, inner: InnerLoop
) -> Adapted:
    """Take the inner steps, and keep each rating's share."""
    kept: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in model.layers}
    current = dict(layers)
    for _ in range(inner.num_steps):
        for name, (delta, inputs) in _row_gradients(model, current, support, inner).items():
            scaled = -inner.learning_rate * delta
            kept[name].append((scaled, inputs))
            current[f"{name}.weight"] = current[f"{name}.weight"] + (
                scaled.T @ inputs.expand(len(scaled), -1)
            )
            if model.layers[name].has_bias:
                current[f"{name}.bias"] = current[f"{name}.bias"] + scaled.sum(0)
    num_rows = len(support.label)
    moves = {}
    for name, shape in model.layers.items():
        deltas = [delta for delta, _ in kept[name]]
        seen = [rows for _, rows in kept[name]]
        empty = support.x.new_zeros
        moves[name] = RatingMoves(
            torch.stack(deltas) if deltas else empty(0, num_rows, sum(shape.splits)),
            torch.stack(seen) if seen else empty(0, num_rows, shape.num_in),
            shape.has_bias,
        )
    return Adapted(current, moves)


def _row_gradients(
    model: Recommender, layers: Layers, support: Support, inner: InnerLoop
) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each layer, δ [n, out] of every row's loss, and what it saw: [n, in] or [1, in]."""
    activation = ACTIVATIONS[model.activation]
    encoded = support.x.new_zeros(0)
    scales: list[Tensor] = []
    shifts: list[Tensor] = []
    if model.has_encoder:
        context = support.context.flatten()
        encoded = layers["encoder.weight"] @ context + layers["encoder.bias"]
        film = (layers["film.weight"] @ encoded).split(model.layers["film"].splits)
        scales, shifts = list(film[0::2]), list(film[1::2])
        if model.is_film_residual:
            scales = [1 + scale for scale in scales]
    linear, modulated, hidden = [], [], [support.x]
    for k in range(len(model.hidden)):
        z = hidden[-1] @ layers[f"hidden_{k + 1}.weight"].T + layers[f"hidden_{k + 1}.bias"]
        linear.append(z)
        z = scales[k] * z + shifts[k] if scales else z
        modulated.append(z)
        hidden.append(activation.forward(z))
    prediction = hidden[-1] @ layers["output.weight"][0] + layers["output.bias"]
    kernel_input = support.x * support.context[1]
    if model.has_kernel:
        prediction = prediction + kernel_input @ layers["kernel.weight"][0]
    delta = (_loss_gradient(prediction, support, inner) * support.row_weight).unsqueeze(1)
    gradients = {"output": (delta, hidden[-1])}
    if model.has_kernel:
        gradients["kernel"] = (delta, kernel_input)
    d_hidden = delta @ layers["output.weight"]
    d_film: list[Tensor] = []
    for k in reversed(range(len(model.hidden))):
        delta = activation.backward(d_hidden, modulated[k], hidden[k + 1])
        if scales:
            d_film = [delta * linear[k], delta, *d_film]
            delta = delta * scales[k]
        gradients[f"hidden_{k + 1}"] = (delta, hidden[k])
        d_hidden = delta @ layers[f"hidden_{k + 1}.weight"]
    if model.has_encoder:
        delta = torch.cat(d_film, 1)
        gradients["film"] = (delta, encoded.unsqueeze(0))
        gradients["encoder"] = (delta @ layers["film.weight"], context.unsqueeze(0))
    return gradients


def _loss_gradient(prediction: Tensor, support: Support, inner: InnerLoop) -> Tensor:
    """[n] ∂ of each row's loss by its prediction."""
    if inner.loss == "mse":
        return 2 * (prediction - support.label)
    assert support.logit is not None
    return torch.sigmoid(prediction + support.logit) - support.label
