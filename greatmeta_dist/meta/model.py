"""The recommender as pure functions, forward and backward: features of rows → predictions.

Nothing here goes through autograd: ``backward`` gives each layer's output gradients δ, which with
the layer's inputs are all that a per-user gradient is (DESIGN.md section 3). Shapes as in
``batch.py``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from greatmeta_dist.meta.batch import RowSet
from greatmeta_dist.meta.gradients import LayerInput, LinearGradients

Loss = Literal["mse", "bce"]
KERNEL_START = 2.0
"""Weight of each feature in a fresh kernel."""
CONTEXT_COLUMNS = 16
"""Of each item field, what the scheduler sees of the support's context."""


class Activation(NamedTuple):
    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(gradient of the output, input z, output h) → gradient of the input."""


def _tanh(z: Tensor) -> Tensor:
    """On a CPU by way of the logistic function, which torch computes ten times as fast there; to
    an absolute 1e-7 in float32."""
    if z.is_cpu and z.dtype != torch.bfloat16:
        return torch.sigmoid(2 * z).mul_(2).sub_(1)
    return torch.tanh(z)


ACTIVATIONS: dict[str, Activation] = {
    "none": Activation(lambda z: z, lambda grad, z, h: grad),
    "relu": Activation(F.relu, lambda grad, z, h: torch.ops.aten.threshold_backward(grad, h, 0)),
    "gelu": Activation(F.gelu, lambda grad, z, h: torch.ops.aten.gelu_backward(grad, z)),
    "tanh": Activation(_tanh, lambda grad, z, h: torch.ops.aten.tanh_backward(grad, h)),
}


class Weights(Protocol):
    """The linear layers of A, the same for all users or each user's own."""

    def apply(self, name: str, value: LayerInput) -> Tensor:
        """[B, r, in] → [B, r, out]."""

    def vjp(self, name: str, value: LayerInput, delta: Tensor, total: Tensor) -> LayerInput:
        """Gradient of a layer's input from that of its output: δ [B, r, out], Σ_r δ [B, out]."""


@dataclass(frozen=True)
class LayerShape:
    num_in: int
    splits: tuple[int, ...]
    """Outputs of each tensor stacked in the layer."""
    has_bias: bool


@dataclass(frozen=True)
class Pass:
    """What a set's rows left behind on their way through the model."""

    inputs: dict[str, LayerInput]
    """What each layer saw."""
    scales: list[Tensor]
    """[B, 1, h] γ of each hidden layer; empty without encoder."""
    linear: list[Tensor]
    """[B, r, h] each hidden layer before its modulation."""
    modulated: list[Tensor]
    """[B, r, h] after it."""
    hidden: list[Tensor]
    """[B, r, h] after the activation."""
    prediction: Tensor
    """[B, r]"""


@dataclass(frozen=True)
class SetInput:
    """What a set gives the model; the same in every pass."""

    x: LayerInput
    """[B, n, D] features of its rows."""
    context: LayerInput | None
    """[B, 1, C] what the encoder reads; None without encoder."""
    kernel_input: LayerInput | None
    """[B, n, D] what the kernel reads; None without it."""


@dataclass(frozen=True)
class InputGradients:
    """Gradients of a set's features and of its context."""

    x: LayerInput
    context: Tensor | None
    """[B, C]"""


@dataclass(frozen=True)
class Recommender:
    """What the model computes (DESIGN.md section 2, *Model*); holds sizes, never parameters."""

    num_user_fields: int
    num_item_fields: int
    embedding_dim: int
    hidden: tuple[int, ...]
    activation: str = "none"
    has_encoder: bool = True
    context: Literal["own", "support"] = "own"
    """``own``: the mean of the set's own rows (the authors' form); ``support``: the mean of the
    support rows and of the support rows times their labels, for both sets."""
    is_film_residual: bool = False
    """Whether scales are 1 + γ: starts as the plain predictor when the encoder starts small."""
    has_kernel: bool = False
    """Whether a prediction also adds k·(x ⊙ the label-weighted mean of the support's x): a kernel
    over items, learnt. Only with the ``support`` context."""

    @property
    def input_dim(self) -> int:
        return (self.num_user_fields + self.num_item_fields) * self.embedding_dim

    @property
    def has_support_gradient(self) -> bool:
        """Whether the query loss reaches the support rows' embeddings."""
        return self.has_encoder and self.context == "support"

    @property
    def context_feature_dim(self) -> int:
        """Columns of ``context_features``."""
        if not self.has_support_gradient:
            return 0
        return self.num_item_fields * min(self.embedding_dim, CONTEXT_COLUMNS)

    @cached_property
    def layers(self) -> dict[str, LayerShape]:
        """The linear layers of A. ``film`` stacks γ₁, β₁, γ₂, β₂, … (bias-free)."""
        shapes: dict[str, LayerShape] = {}
        if self.has_encoder:
            context_dim = self.input_dim * (2 if self.context == "support" else 1)
            shapes["encoder"] = LayerShape(context_dim, (self.input_dim,), True)
            pairs = tuple(h for width in self.hidden for h in (width, width))
            shapes["film"] = LayerShape(self.input_dim, pairs, False)
        num_in = self.input_dim
        for k, num_out in enumerate(self.hidden, start=1):
            shapes[f"hidden_{k}"] = LayerShape(num_in, (num_out,), True)
            num_in = num_out
        shapes["output"] = LayerShape(num_in, (1,), True)
        if self.has_kernel:
            shapes["kernel"] = LayerShape(self.input_dim, (1,), False)
        return shapes

    @property
    def num_tensors(self) -> int:
        """P, the tensors of A as the paper counts them: factors have an entry for each."""
        return sum(len(s.splits) + s.has_bias for s in self.layers.values())

    def forward(self, given: SetInput, weights: Weights) -> Pass:
        """Score every row of every user."""
        activation = ACTIVATIONS[self.activation]
        inputs: dict[str, LayerInput] = {}

        def apply(name: str, value: LayerInput) -> Tensor:
            inputs[name] = value
            return weights.apply(name, value)

        scales, shifts = [], []
        if self.has_encoder:
            assert given.context is not None
            film = apply("film", LayerInput(apply("encoder", given.context)))
            parts = film.split(self.layers["film"].splits, 2)
            scales, shifts = list(parts[0::2]), list(parts[1::2])
            if self.is_film_residual:
                scales = [1 + scale for scale in scales]
        linear, modulated, hidden = [], [], []
        value = given.x
        for k in range(len(self.hidden)):
            z = apply(f"hidden_{k + 1}", value)
            linear.append(z)
            if scales:
                z = torch.addcmul(shifts[k], scales[k], z)
            h = activation.forward(z)
            modulated.append(z)
            hidden.append(h)
            value = LayerInput(h)
        prediction = apply("output", value).squeeze(2)
        if given.kernel_input is not None:
            prediction = prediction + apply("kernel", given.kernel_input).squeeze(2)
        return Pass(inputs, scales, linear, modulated, hidden, prediction)

    def backward(
        self, seen: Pass, d_prediction: Tensor, weights: Weights, *, to_inputs: bool
    ) -> tuple[dict[str, LinearGradients], InputGradients | None]:
        """Every layer's gradients by user, from ∂loss/∂prediction [B, n]; those of the inputs."""
        grads: dict[str, LinearGradients] = {}

        def vjp(name: str, delta: Tensor, total: Tensor) -> LayerInput:
            return weights.vjp(name, seen.inputs[name], delta, total)

        def keep(name: str, delta: Tensor, total: Tensor) -> None:
            # Under autocast the pass is in low precision; what is read from it is not.
            shape, kind = self.layers[name], d_prediction.dtype
            grads[name] = LinearGradients(
                delta.to(kind),
                total.to(kind),
                seen.inputs[name].to(kind),
                shape.has_bias,
                shape.splits,
            )

        delta = d_prediction.unsqueeze(2)
        total = delta.sum(1)
        keep("output", delta, total)
        if self.has_kernel:
            keep("kernel", delta, total)
        d_hidden = vjp("output", delta, total).rows
        d_film: list[Tensor] = []
        backward = ACTIVATIONS[self.activation].backward
        d_x = None
        for k in reversed(range(len(self.hidden))):
            delta = backward(d_hidden, seen.modulated[k], seen.hidden[k])
            total = delta.sum(1)
            if seen.scales:
                d_film = [(delta * seen.linear[k]).sum(1), total, *d_film]
                delta = delta * seen.scales[k]
                total = total * seen.scales[k].squeeze(1)
            keep(f"hidden_{k + 1}", delta, total)
            if k > 0:
                d_hidden = vjp(f"hidden_{k + 1}", delta, total).rows
            elif to_inputs:
                d_x = vjp("hidden_1", delta, total)
        d_context = None
        if self.has_encoder:
            total = torch.cat(d_film, 1)
            keep("film", total.unsqueeze(1), total)
            delta = vjp("film", total.unsqueeze(1), total).rows
            total = delta.squeeze(1)
            keep("encoder", delta, total)
            if to_inputs:
                d_context = vjp("encoder", delta, total).rows.squeeze(1)
        if self.has_kernel and d_x is not None and d_context is not None:
            through = vjp("kernel", d_prediction.unsqueeze(2), d_prediction.sum(1, keepdim=True))
            d_x, d_context = self._through_liked(seen, through, d_x, d_context)
        ordered = {name: grads[name] for name in self.layers}
        return ordered, None if d_x is None else InputGradients(d_x, d_context)

    def like(self, x: LayerInput, context: LayerInput) -> LayerInput:
        """x times the label-weighted mean of the support's x, what ``kernel`` sees: [B, n, D]."""
        assert x.shared is not None
        mean = context.rows[:, :, self.input_dim :]
        num_shared = x.shared.shape[1]
        return LayerInput(
            x.rows * mean[:, :, num_shared:], x.shared * mean[:, 0, :num_shared], is_fixed=True
        )

    def context_features(self, context: Tensor) -> Tensor:
        """The first columns of every item field in the label-weighted half of contexts [B, C]:
        [B, ``context_feature_dim``]."""
        start = self.input_dim + self.num_user_fields * self.embedding_dim
        fields = context[:, start:].unflatten(1, (self.num_item_fields, self.embedding_dim))
        return fields[:, :, :CONTEXT_COLUMNS].flatten(1)

    def _through_liked(
        self, seen: Pass, through: LayerInput, d_x: LayerInput, d_context: Tensor
    ) -> tuple[LayerInput, Tensor]:
        """Add the gradients of x and of the context that come through the kernel's input."""
        x, context = seen.inputs["hidden_1"], seen.inputs["encoder"]
        assert x.shared is not None
        assert through.shared is not None
        assert d_x.shared is not None
        num_shared = x.shared.shape[1]
        mean = context.rows[:, 0, self.input_dim :]
        d_x = LayerInput(
            torch.addcmul(d_x.rows, through.rows, mean[:, None, num_shared:]),
            torch.addcmul(d_x.shared, through.shared, mean[:, :num_shared]),
        )
        parts = (
            d_context[:, : self.input_dim],
            d_context[:, self.input_dim : self.input_dim + num_shared] + through.shared * x.shared,
            d_context[:, self.input_dim + num_shared :] + (through.rows * x.rows).sum(1),
        )
        return d_x, torch.cat(parts, 1)

    def summarise(self, x: LayerInput, rows: RowSet) -> LayerInput:
        """The context [B, 1, C] that a set gives: x of its rows (DESIGN.md section 2)."""
        shares = self.shares(rows)
        assert x.shared is not None
        common = shares.sum(2, keepdim=True) * x.shared.unsqueeze(1)
        context = torch.cat((common, shares @ x.rows), 2)
        return LayerInput(context.flatten(1).unsqueeze(1), is_fixed=True)

    def shares(self, rows: RowSet) -> Tensor:
        """[B, 1 or 2, n] what each row counts in the context."""
        if self.context == "own":
            return rows.row_weight.unsqueeze(1)
        return torch.stack((rows.row_weight, rows.row_weight * rows.context_label), dim=1)

    def init_layers(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Fresh float32 parameters of A, uniform in ±1/sqrt(fan in) as ``torch.nn.Linear``.

        The kernel starts as a plain inner product of features, ``KERNEL_START`` times.
        """
        params: dict[str, Tensor] = {}
        for name, shape in self.layers.items():
            bound = shape.num_in**-0.5
            kinds = {"weight": (sum(shape.splits), shape.num_in)}
            if shape.has_bias:
                kinds["bias"] = (sum(shape.splits),)  # type: ignore[assignment]
            for kind, size in kinds.items():
                params[f"{name}.{kind}"] = torch.empty(size).uniform_(
                    -bound, bound, generator=generator
                )
        if self.has_kernel:
            params["kernel.weight"].fill_(KERNEL_START)
        return params


def set_loss(prediction: Tensor, rows: RowSet, loss: Loss) -> Tensor:
    """Loss of each user's rows, summed by their shares: [B, n] → [B]; 0 for one without rows."""
    if loss == "mse":
        each = (prediction - rows.label).square()
    else:
        each = F.binary_cross_entropy_with_logits(
            _logits(prediction, rows), rows.label, reduction="none"
        )
    return (each * rows.row_weight).sum(1)


def loss_gradient(prediction: Tensor, rows: RowSet, loss: Loss) -> Tensor:
    """∂ of ``set_loss`` by the predictions: [B, n]."""
    if loss == "mse":
        return (prediction - rows.label) * rows.row_weight * 2
    return (torch.sigmoid(_logits(prediction, rows)) - rows.label) * rows.row_weight


def _logits(prediction: Tensor, rows: RowSet) -> Tensor:
    return prediction if rows.logit is None else prediction + rows.logit
