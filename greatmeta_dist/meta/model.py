"""What the recommender computes: its sizes and layers (DESIGN.md section 2, *Model*).

``set_input.py`` makes its inputs of embedding rows, ``passes.py`` runs it forward and backward.
Shapes as in ``batch.py``.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

KERNEL_START = 2.0
"""Weight of each feature in a fresh kernel."""
ONE_ROW_LAYERS = ("encoder", "film")
"""They see one row a user, however long the sets are."""
CONTEXT_COLUMNS = 16
"""First columns of each item field of the context that the scheduler sees."""


@dataclass(frozen=True)
class LayerShape:
    """One linear layer, which may stack several tensors along its outputs."""

    num_in: int
    splits: tuple[int, ...]
    """Outputs of each stacked tensor."""
    has_bias: bool


@dataclass(frozen=True)
class Recommender:
    """The model's form; holds sizes, never parameters."""

    num_user_fields: int
    num_item_fields: int
    embedding_dim: int
    hidden: tuple[int, ...]
    """Width of each hidden layer."""
    activation: str = "none"
    """A name in ``activations.ACTIVATIONS``."""
    has_encoder: bool = True
    """Whether a context modulates the hidden layers (FiLM)."""
    context: Literal["own", "support"] = "own"
    """``own``: the mean of the set's own rows (the authors' form). ``support``: the mean of the
    support rows, and of the support rows times their labels, for both sets."""
    is_film_residual: bool = False
    """Whether scales are 1 + γ, so that a small encoder starts as the plain predictor."""
    has_kernel: bool = False
    """Whether a prediction adds k·(x ⊙ m), m being the label-weighted mean of the support's x and k
    learnt: a kernel between an item and those that the user rated. Needs the ``support`` context.
    """

    @property
    def input_dim(self) -> int:
        """D, columns of x."""
        return (self.num_user_fields + self.num_item_fields) * self.embedding_dim

    @property
    def has_support_gradient(self) -> bool:
        """Whether the query loss reaches the support rows' embeddings."""
        return self.has_encoder and self.context == "support"

    @property
    def context_feature_dim(self) -> int:
        """Columns of ``set_input.context_features``."""
        if not self.has_support_gradient:
            return 0
        return self.num_item_fields * min(self.embedding_dim, CONTEXT_COLUMNS)

    @cached_property
    def layers(self) -> dict[str, LayerShape]:
        """The linear layers of A by name. ``film`` stacks γ₁, β₁, γ₂, β₂, … (bias-free)."""
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

    def init_layers(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Fresh float32 tensors of A by name (``gradients.Layers``).

        They are uniform in ±1/sqrt(fan in), as those of ``torch.nn.Linear``.

        The kernel starts as ``KERNEL_START`` times the plain inner product of features.
        """
        params: dict[str, Tensor] = {}
        for name, shape in self.layers.items():
            bound = shape.num_in**-0.5
            sizes: dict[str, tuple[int, ...]] = {"weight": (sum(shape.splits), shape.num_in)}
            if shape.has_bias:
                sizes["bias"] = (sum(shape.splits),)
            for kind, size in sizes.items():
                params[f"{name}.{kind}"] = torch.empty(size).uniform_(
                    -bound, bound, generator=generator
                )
        if self.has_kernel:
            params["kernel.weight"].fill_(KERNEL_START)
        return params
