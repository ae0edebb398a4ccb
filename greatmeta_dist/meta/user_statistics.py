"""What the coordinator learns of every user: the hundred numbers or so that leave a worker.

Shapes: B users.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from greatmeta_dist.meta.layer_input import all_finite


@dataclass(frozen=True)
class UserStatistics:
    """Of the users of a batch, or, at the coordinator, of the global batch."""

    losses: Tensor
    """[B, 2] query loss after adaptation, and before it; [B, 1], the former, where no factors are
    read. Not finite for a user who must count nothing."""
    target_weight: Tensor
    """[B] as ``TaskBatch.target_weight``."""
    factors: Tensor
    """[B, ·] as ``Factors.columns``, unscaled; means over a user's visits where the weighting asks
    for them; no columns where no factors are read."""

    def columns(self) -> Tensor:
        """[B, ·] everything side by side, to be sent."""
        target_weight = self.target_weight.to(self.losses).unsqueeze(1)
        return torch.cat((self.losses, target_weight, self.factors), 1)

    @classmethod
    def from_columns(cls, columns: Tensor, *, has_factors: bool) -> "UserStatistics":
        """The inverse of ``columns``; ``has_factors`` says whether factors were read."""
        num_losses = 2 if has_factors else 1
        return cls(columns[:, :num_losses], columns[:, num_losses], columns[:, num_losses + 1 :])

    @cached_property
    def is_finite(self) -> Tensor:
        """[B] False for a user whose loss, gradient or factors are not finite: it weighs 0."""
        return all_finite(self.columns())

    @cached_property
    def is_weighed(self) -> Tensor:
        """[B] who shares in a softmax: those who are finite, or all if nobody is.

        Then all gradients are zeros, and any finite weights will do.
        """
        return self.is_finite | ~self.is_finite.any()

    @cached_property
    def filled_factors(self) -> Tensor:
        """[B, ·] factors, the others' mean for a user who is not finite: φ must not see nan."""
        known = torch.where(self.is_finite.unsqueeze(1), self.factors, 0)
        mean = known.sum(0) / self.is_finite.sum().clamp(min=1)
        return torch.where(self.is_finite.unsqueeze(1), self.factors, mean)
