"""Adam for a few tensors by name, by torch's fused update.

``torch.optim.Adam`` takes the same steps. But constructing one imports torch's compiler, which
takes a process 2 s, and every command that loads a model would pay for it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.adam import adam

BETA_1, BETA_2 = 0.9, 0.999
"""Adam's usual constants."""


class Adam:
    """The state of Adam (Kingma and Ba) for ``params``, which it moves in place."""

    def __init__(self, params: Mapping[str, Tensor], rate: float, eps: float = 1e-8):
        """``rate`` is the learning rate."""
        self.params, self.rate, self.eps = dict(params), rate, eps
        self._state = {
            name: {
                "step": torch.zeros((), device=param.device),
                "exp_avg": torch.zeros_like(param, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(param, requires_grad=False),
            }
            for name, param in self.params.items()
        }

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """One step along the gradients of the tensors that have one."""
        states = [self._state[name] for name in gradients]
        adam(
            [self.params[name] for name in gradients],
            list(gradients.values()),
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=BETA_1,
            beta2=BETA_2,
            lr=self.rate,
            weight_decay=0,
            eps=self.eps,
            maximize=False,
        )

    def state(self, prefix: str) -> dict[str, Tensor]:
        """For a checkpoint: tensors by name, e.g. ``theta.output.bias.exp_avg``."""
        return {
            f"{prefix}.{name}.{key}": value
            for name, of_param in self._state.items()
            for key, value in of_param.items()
        }

    def load_state(self, prefix: str, state: Mapping[str, Tensor]) -> None:
        """The inverse of ``state``, in place."""
        for name, tensor in self.state(prefix).items():
            tensor.copy_(state[name])
