"""What the reference steps share: a user's loss in autograd, θ, φ and both Adams.

Each reference takes a whole meta step on a ``TaskBatch``, with every user's gradient of A formed:
``naive.NaiveStep``, which embeds row by row as DESIGN.md section 2 writes it; ``LoopStep``, the
same loop with a user's set embedded at once; and ``VmapStep``, all users at once.

Shapes: n rows of one user's set, D input width, C context width, U distinct embedding rows of a
batch, d embedding width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.naive import ACTIVATIONS
from greatmeta_dist.engine.coordinator import GRADIENT_BOUND
from greatmeta_dist.meta.fast_weights import InnerLoop
from greatmeta_dist.meta.gradients import Layers
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.meta.scheduler import Scheduler


class UserSet(NamedTuple):
    """One user's support or query set."""

    x: Tensor
    """[n, D]"""
    label: Tensor
    """[n]"""
    row_weight: Tensor
    """[n]"""


def user_loss(model: Recommender, a: Layers, rows: UserSet, support: UserSet) -> Tensor:
    """One user's mean squared error on a set; ``support`` where the context is made of it."""
    x, label, row_weight = rows
    context = None
    if model.has_encoder and model.context == "own":
        context = row_weight @ x
    elif model.has_encoder:
        weighted_labels = support.row_weight * support.label
        context = torch.cat((support.row_weight @ support.x, weighted_labels @ support.x))
    prediction = _predict(model, a, x, context)
    if model.has_kernel:
        assert context is not None
        kernel_input = x * context[model.input_dim :]
        prediction = prediction + F.linear(kernel_input, a["kernel.weight"]).squeeze(-1)
    return ((prediction - label).square() * row_weight).sum()


def _predict(model: Recommender, a: Layers, x: Tensor, context: Tensor | None) -> Tensor:
    """One user's predictions [n] from x [n, D] and a context [C]."""
    scales: list[Tensor] = []
    shifts: list[Tensor] = []
    if context is not None:
        code = F.linear(context, a["encoder.weight"], a["encoder.bias"])
        film = F.linear(code, a["film.weight"]).split(model.layers["film"].splits)
        scales, shifts = list(film[0::2]), list(film[1::2])
    h = x
    for k in range(len(model.hidden)):
        h = F.linear(h, a[f"hidden_{k + 1}.weight"], a[f"hidden_{k + 1}.bias"])
        if context is not None:
            h = (scales[k] + float(model.is_film_residual)) * h + shifts[k]
        h = ACTIVATIONS[model.activation](h)
    return F.linear(h, a["output.weight"], a["output.bias"]).squeeze(-1)


class ReferenceStep:
    """θ, φ and both Adams."""

    def __init__(
        self,
        model: Recommender,
        layers: Layers,
        weight: Tensor,
        scheduler: Scheduler,
        inner: InnerLoop,
        *,
        rate: float,
        scheduler_rate: float,
    ):
        """``weight`` is the table of all embedding rows."""
        self.model, self.inner, self.rate, self.scheduler = model, inner, rate, scheduler
        self.layers = {k: v.clone().requires_grad_() for k, v in layers.items()}
        self.weight = weight.clone().requires_grad_()
        self.theta = torch.optim.Adam(self.layers.values(), lr=rate)
        self.rows = torch.optim.SparseAdam([self.weight], lr=rate)
        self.phi = torch.optim.Adam(scheduler.parameters(), lr=scheduler_rate)

    def update_scheduler(self, loss: Tensor, columns: Tensor) -> Tensor:
        """One Adam step on φ along the gradient of a loss; the new weights."""
        self.phi.zero_grad()
        loss.backward(inputs=list(self.scheduler.parameters()))
        torch.nn.utils.clip_grad_value_(self.scheduler.parameters(), GRADIENT_BOUND)
        self.phi.step()
        with torch.no_grad():
            return self.scheduler(columns)

    def update_theta(self, layers: list[Tensor], rows: Tensor, row_gradient: Tensor) -> None:
        """One Adam step on θ: on A by its gradients, and on rows [U] by theirs [U, d]."""
        for param, gradient in zip(self.layers.values(), layers, strict=True):
            param.grad = gradient.clamp(-GRADIENT_BOUND, GRADIENT_BOUND)
        self.weight.grad = torch.sparse_coo_tensor(
            rows.unsqueeze(0),
            row_gradient.clamp(-GRADIENT_BOUND, GRADIENT_BOUND),
            self.weight.shape,
            is_coalesced=True,
            check_invariants=False,
        )
        self.theta.step()
        self.rows.step()
