"""The recommender as a pure function: rows of features, a context, linear layers, a prediction.

Shapes in this package: B users of a batch, n rows of a set (padded), I distinct items of a batch,
U distinct embedding rows of a batch, F feature fields (Fu of the user, Fi of the item), d embedding
width, D = F·d input width, C context width.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ApplyLayer = Callable[[str, Tensor], Tensor]
"""Applies the linear layer of that name to [B, n, in]; the model never sees a weight."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda h: h,
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class RowSet:
    """A support or query set of every user, padded to the longest of the batch."""

    item: Tensor
    """[B, n] which of the batch's distinct items each row is about; 0 where padded."""
    label: Tensor
    """[B, n] rating in the model's units, or click; 0 where padded."""
    mask: Tensor
    """[B, n] 1 for a row, 0 for padding."""

    @property
    def count(self) -> Tensor:
        """[B] rows of each user, at least 1 so that the mean of an empty set is 0."""
        return self.mask.sum(1).clamp(min=1)


@dataclass(frozen=True)
class SlotTable:
    """Which embedding rows make up each entity's features.

    Slots of a field stand side by side; padding has weight 0.
    """

    row: Tensor
    """[entities, slots] position among the batch's distinct embedding rows."""
    weight: Tensor
    """[entities, slots] 1 for a sum, 1/length for a mean, 0 for padding."""
    widths: tuple[int, ...]
    """Slots of each field, in order."""


@dataclass(frozen=True)
class GradientPlan:
    """How per-user gradients of feature vectors become per-user gradients of embedding rows.

    An *atom* is the gradient [d] of one field of one user or of one row of a set; atoms are counted
    through users [B, Fu], then query rows [B, n, Fi], then support rows [B, n, Fi] (these only
    where the context is made of the support). A *pair* is one embedding row as one user touches
    it: the sum of all its slots' atoms. M slots, P pairs, sorted by pair.
    """

    atom: Tensor
    """[M] atom of each slot."""
    weight: Tensor
    """[M] pooling weight of each slot."""
    pair: Tensor
    """[M] pair each slot adds to."""
    user: Tensor
    """[P] user of each pair."""
    row: Tensor
    """[P] position among the batch's distinct embedding rows."""
    field: Tensor
    """[P] field of each pair."""


@dataclass(frozen=True)
class TaskBatch:
    """The tasks one lane contributes to one step."""

    rows: Tensor
    """[U] distinct embedding rows the batch touches, ascending."""
    user_slots: SlotTable
    item_slots: SlotTable
    support: RowSet
    query: RowSet
    plan: GradientPlan

    @property
    def num_users(self) -> int:
        return self.support.mask.shape[0]

    def to(self, device: torch.device) -> "TaskBatch":
        """The batch on another device."""
        return _move(self, device)


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: _move(getattr(value, f.name), device) for f in fields(value)}
        )
    return value


@dataclass(frozen=True)
class LayerShape:
    num_in: int
    num_out: int
    has_bias: bool


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

    @property
    def input_dim(self) -> int:
        return (self.num_user_fields + self.num_item_fields) * self.embedding_dim

    @property
    def layers(self) -> dict[str, LayerShape]:
        """The linear layers of A, in the order in which factors list their tensors."""
        shapes: dict[str, LayerShape] = {}
        if self.has_encoder:
            context_dim = self.input_dim * (2 if self.context == "support" else 1)
            shapes["encoder"] = LayerShape(context_dim, self.input_dim, True)
        num_in = self.input_dim
        for k, num_out in enumerate(self.hidden, start=1):
            shapes[f"hidden_{k}"] = LayerShape(num_in, num_out, True)
            if self.has_encoder:
                shapes[f"scale_{k}"] = LayerShape(self.input_dim, num_out, False)
                shapes[f"shift_{k}"] = LayerShape(self.input_dim, num_out, False)
            num_in = num_out
        shapes["output"] = LayerShape(num_in, 1, True)
        return shapes

    @property
    def parameter_names(self) -> list[str]:
        """Names of the tensors of A: ``<layer>.weight``, ``<layer>.bias``, in factor order."""
        return [
            f"{name}.{kind}"
            for name, shape in self.layers.items()
            for kind in (("weight", "bias") if shape.has_bias else ("weight",))
        ]

    def predict(self, x: Tensor, context: Tensor | None, layer: ApplyLayer) -> Tensor:
        """Score every row: x [B, n, D], context [B, C] or None without encoder → [B, n]."""
        act = ACTIVATIONS[self.activation]
        code = None
        if self.has_encoder:
            assert context is not None
            code = layer("encoder", context.unsqueeze(1))
        h = x
        for k in range(1, len(self.hidden) + 1):
            h = layer(f"hidden_{k}", h)
            if code is not None:
                scale = layer(f"scale_{k}", code)
                if self.is_film_residual:
                    scale = 1 + scale
                h = scale * h + layer(f"shift_{k}", code)
            h = act(h)
        return layer("output", h).squeeze(-1)

    def summarise(self, x: Tensor, rows: RowSet) -> Tensor:
        """The context [B, C] that a set gives: x [B, n, D] of its rows (DESIGN.md section 2)."""
        share = rows.mask / rows.count.unsqueeze(1)
        if self.context == "own":
            return torch.einsum("bn,bnd->bd", share, x)
        shares = torch.stack((share, share * rows.label), dim=1)
        return torch.bmm(shares, x).flatten(1)

    def init_layers(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Fresh float32 parameters of A, uniform in ±1/sqrt(fan in) as ``torch.nn.Linear``."""
        params: dict[str, Tensor] = {}
        for name, shape in self.layers.items():
            bound = shape.num_in**-0.5
            params[f"{name}.weight"] = torch.empty(shape.num_out, shape.num_in).uniform_(
                -bound, bound, generator=generator
            )
            if shape.has_bias:
                params[f"{name}.bias"] = torch.empty(shape.num_out).uniform_(
                    -bound, bound, generator=generator
                )
        return params


def pool_slots(rows: Tensor, slots: SlotTable) -> Tensor:
    """Feature vectors [entities, fields·d] from embedding rows [U, d]."""
    if not slots.widths:
        return rows.new_zeros(slots.row.shape[0], 0)
    picked = rows[slots.row] * slots.weight.unsqueeze(-1)
    by_field = picked.split(list(slots.widths), dim=1)
    return torch.cat([field.sum(1) for field in by_field], dim=1)


def set_loss(prediction: Tensor, rows: RowSet, loss: Literal["mse", "bce"]) -> Tensor:
    """Mean loss of each user's rows: [B, n] → [B]; 0 for a user without rows."""
    if loss == "mse":
        each = (prediction - rows.label) ** 2
    else:
        each = F.binary_cross_entropy_with_logits(prediction, rows.label, reduction="none")
    return (each * rows.mask).sum(1) / rows.count
