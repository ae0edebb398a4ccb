"""Activations with their derivatives: passes through the model do not go through autograd."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Activation(NamedTuple):
    forward: Callable[[Tensor], Tensor]
    """z → h"""
    backward: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(∂L/∂h, z, h) → ∂L/∂z"""


_ONE = torch.ones(())


def _tanh(z: Tensor) -> Tensor:
    """tanh(z) = 1 − 2σ(−2z): on a CPU torch computes σ ten times as fast as tanh.

    The difference is at most 1e-7 in float32.
    """
    if z.is_cpu and z.dtype != torch.bfloat16:
        h = (z * -2).sigmoid_()
        return torch.sub(_ONE, h, alpha=2, out=h)
    return torch.tanh(z)


ACTIVATIONS: dict[str, Activation] = {
    "none": Activation(lambda z: z, lambda grad, z, h: grad),
    "relu": Activation(F.relu, lambda grad, z, h: torch.ops.aten.threshold_backward(grad, h, 0)),
    "gelu": Activation(F.gelu, lambda grad, z, h: torch.ops.aten.gelu_backward(grad, z)),
    "tanh": Activation(_tanh, lambda grad, z, h: torch.ops.aten.tanh_backward(grad, h)),
}
