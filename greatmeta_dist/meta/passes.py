"""The recommender forward and backward, as pure functions, for all users at once.

Nothing here goes through autograd: ``backward`` gives each layer's output gradients δ, which with
the layer's inputs are all that a per-user gradient is made of (``gradients.py``). A is given as
``Weights``, so that the same code runs at the shared A and at every user's own A_i
(``fast_weights.py``).

Shapes as in ``batch.py``; r rows that a layer sees, h width of a hidden layer.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from greatmeta_dist.meta.activations import ACTIVATIONS
from greatmeta_dist.meta.layer_input import LayerInput, row_sums
from greatmeta_dist.meta.linear_gradients import LinearGradients
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.meta.set_input import InputGradients, SetInput, add_kernel_gradients


class Weights(Protocol):
    """The linear layers of A, the same for all users or each user's own."""

    def apply(self, name: str, value: LayerInput) -> Tensor:
        """The output of layer ``name``: [B, r, in] → [B, r, out]."""

    def vjp(self, name: str, value: LayerInput, delta: Tensor, delta_sum: Tensor) -> LayerInput:
        """Gradient of a layer's input from that of its output: δ [B, r, out], Σ_r δ [B, out]."""


@dataclass(frozen=True)
class Pass:
    """What a forward pass keeps for the backward pass."""

    set_input: SetInput
    inputs: dict[str, LayerInput]
    """What each layer saw."""
    scales: list[Tensor]
    """[B, 1, h] what each hidden layer's output is multiplied by: γ, or 1 + γ where the model's
    ``is_film_residual`` is set; empty without encoder."""
    linear: list[Tensor]
    """[B, n, h] output of each hidden layer, before its modulation."""
    modulated: list[Tensor]
    """[B, n, h] after it; where the activation's gradient does without, overwritten."""
    hidden: list[Tensor]
    """[B, n, h] after the activation."""
    prediction: Tensor
    """[B, n]"""


def forward(model: Recommender, set_input: SetInput, weights: Weights) -> Pass:
    """Score every row of every user."""
    activation = ACTIVATIONS[model.activation]
    inputs: dict[str, LayerInput] = {}

    def apply(name: str, value: LayerInput) -> Tensor:
        inputs[name] = value
        return weights.apply(name, value)

    scales, shifts = [], []
    if set_input.context is not None:
        film = modulation(model, set_input.context, weights, inputs)
        stacked = film.split(model.layers["film"].splits, 2)
        scales, shifts = list(stacked[0::2]), list(stacked[1::2])
    linear, modulated, hidden = [], [], []
    value = set_input.x
    for k in range(len(model.hidden)):
        z = apply(f"hidden_{k + 1}", value)
        linear.append(z)
        if scales:
            z = torch.addcmul(shifts[k], scales[k], z)
            h = activation.forward_in_place(z)
        else:
            h = activation.forward(z)
        modulated.append(z)
        hidden.append(h)
        value = LayerInput(h)
    prediction = apply("output", value)
    if set_input.kernel_input is not None:
        prediction = prediction + apply("kernel", set_input.kernel_input)
    return Pass(set_input, inputs, scales, linear, modulated, hidden, prediction.squeeze(2))


def modulation(
    model: Recommender, context: LayerInput, weights: Weights, inputs: dict[str, LayerInput]
) -> Tensor:
    """The context's scales and shifts of all hidden layers [B, 1, 2 Σ h]: γ₁ (or 1 + γ₁), β₁, γ₂, …

    What encoder and FiLM see is noted among ``inputs``.
    """
    inputs["encoder"] = context
    inputs["film"] = LayerInput(weights.apply("encoder", context))
    film = weights.apply("film", inputs["film"])
    if not model.is_film_residual:
        return film
    return film + _ones_at_scales(model.layers["film"].splits, film.dtype, film.device)


@lru_cache(maxsize=16)
def _ones_at_scales(splits: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """[Σ splits] 1 for each entry of γ₁, γ₂, …, and 0 for each of β₁, β₂, …"""
    ones = [torch.full((n,), float(k % 2 == 0)) for k, n in enumerate(splits)]
    return torch.cat(ones).to(device, dtype)


def backward(
    model: Recommender, record: Pass, d_prediction: Tensor, weights: Weights, *, to_inputs: bool
) -> tuple[dict[str, LinearGradients], InputGradients | None]:
    """Every layer's gradients by user, from ∂loss/∂prediction [B, n].

    With ``to_inputs`` also the gradients of the set's features and context, else None.
    """
    walk = _BackwardWalk(model, record.inputs, weights, d_prediction.dtype)
    delta = d_prediction.unsqueeze(2)
    delta_sum = row_sums(d_prediction)
    walk.keep("output", delta, delta_sum)
    if model.has_kernel:
        walk.keep("kernel", delta, delta_sum)
    d_film, d_x = walk.through_hidden_layers(
        record, walk.vjp("output", delta, delta_sum).rows, to_inputs=to_inputs
    )
    d_context = None
    if model.has_encoder:
        d_context = walk.through_encoder(torch.cat(d_film, 1), to_inputs=to_inputs)
    grads = {name: walk.grads[name] for name in model.layers}
    if d_x is None:
        return grads, None
    d_inputs = InputGradients(d_x, d_context)
    if model.has_kernel:
        d_kernel_input = walk.vjp("kernel", delta, delta_sum)
        d_inputs = add_kernel_gradients(model, record.set_input, d_kernel_input, d_inputs)
    return grads, d_inputs


def encoder_gradients(
    model: Recommender,
    inputs: dict[str, LayerInput],
    weights: Weights,
    d_film: Tensor,
    *,
    to_inputs: bool,
) -> tuple[dict[str, LinearGradients], Tensor | None]:
    """Gradients of encoder and FiLM by user, from those of ``modulation`` [B, 2 Σ h].

    ``inputs`` is what they saw. With ``to_inputs`` also the context's [B, C], else None.
    """
    walk = _BackwardWalk(model, inputs, weights, d_film.dtype)
    d_context = walk.through_encoder(d_film, to_inputs=to_inputs)
    return walk.grads, d_context


class _BackwardWalk:
    """A backward pass under way: keeps the gradients of the layers it came through."""

    def __init__(
        self,
        model: Recommender,
        inputs: dict[str, LayerInput],
        weights: Weights,
        dtype: torch.dtype,
    ):
        self.model, self.inputs, self.weights, self.dtype = model, inputs, weights, dtype
        self.grads: dict[str, LinearGradients] = {}

    def vjp(self, name: str, delta: Tensor, delta_sum: Tensor) -> LayerInput:
        return self.weights.vjp(name, self.inputs[name], delta, delta_sum)

    def keep(self, name: str, delta: Tensor, delta_sum: Tensor) -> None:
        """Note a layer's gradients.

        Under autocast the pass is in low precision; what is read from it is not.
        """
        self.grads[name] = LinearGradients(
            delta.to(self.dtype),
            delta_sum.to(self.dtype),
            self.inputs[name].to(self.dtype),
            self.model.layers[name].has_bias,
            self.model.layers[name].splits,
        )

    def through_hidden_layers(
        self, record: Pass, d_hidden: Tensor, *, to_inputs: bool
    ) -> tuple[list[Tensor], LayerInput | None]:
        """From ∂L/∂h of the last [B, n, h]: ∂L/∂(γ₁, β₁, γ₂, …) [B, h] each, and ∂L/∂x."""
        backward = ACTIVATIONS[self.model.activation].backward
        d_film: list[Tensor] = []
        d_x = None
        for k in reversed(range(len(self.model.hidden))):
            name = f"hidden_{k + 1}"
            delta = backward(d_hidden, record.modulated[k], record.hidden[k])
            delta_sum = delta.sum(1)
            if record.scales:
                d_film = [(delta * record.linear[k]).sum(1), delta_sum, *d_film]
                delta = delta.mul_(record.scales[k])
                delta_sum = delta.sum(1)
            self.keep(name, delta, delta_sum)
            if k > 0:
                d_hidden = self.vjp(name, delta, delta_sum).rows
            elif to_inputs:
                d_x = self.vjp(name, delta, delta_sum)
        return d_film, d_x

    def through_encoder(self, d_film: Tensor, *, to_inputs: bool) -> Tensor | None:
        """Through FiLM and encoder, which see one row a user: ∂L/∂context [B, C]."""
        delta = d_film.unsqueeze(1)
        self.keep("film", delta, d_film)
        delta = self.vjp("film", delta, d_film).rows
        delta_sum = delta.squeeze(1)
        self.keep("encoder", delta, delta_sum)
        if not to_inputs:
            return None
        return self.vjp("encoder", delta, delta_sum).rows.squeeze(1)
