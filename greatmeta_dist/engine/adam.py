"""Adam for a few named tensors, with torch's own arithmetic and without torch's compiler."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam

from greatmeta_dist.engine.embeddings import BETA_1, BETA_2, EPS


class Adam:
    """Moves tensors in place as ``torch.optim.Adam(fused=True)`` does (Kingma and Ba), bit for bit.

    An optimizer of torch imports torch's compiler when it is made, which takes a second and more of
    every start. The function that it calls for a step does not.
    """

    state: dict[Tensor, dict[str, Tensor]]
    """``step``, ``exp_avg`` and ``exp_avg_sq`` of each tensor; empty before its first gradient."""

    def __init__(self, params: Iterable[Tensor], *, rate: float):
        self.params = list(params)
        self.rate = rate
        self.state = {param: {} for param in self.params}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for param in self.params:
            param.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move each tensor that has a gradient."""
        params = [param for param in self.params if param.grad is not None]
        states = [self._state_of(param) for param in params]
        adam(
            params,
            [param.grad for param in params if param.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=BETA_1,
            beta2=BETA_2,
            lr=self.rate,
            weight_decay=0.0,
            eps=EPS,
            maximize=False,
        )

    def _state_of(self, param: Tensor) -> dict[str, Tensor]:
        """A tensor's state, which starts at zeros."""
        if not self.state[param]:
            self.state[param] = {
                "step": torch.zeros((), dtype=torch.float32, device=param.device),
                "exp_avg": torch.zeros_like(param),
                "exp_avg_sq": torch.zeros_like(param),
            }
        return self.state[param]
