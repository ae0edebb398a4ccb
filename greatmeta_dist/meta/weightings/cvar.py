"""Only the users with the largest query losses count: conditional value at risk over users.

The conditional value at risk (CVaR) of the users' losses is their mean over the worst share of the
users. Its gradient is the mean gradient of these users (Rockafellar and Uryasev, 2000). It needs no
groups: whoever is served badly now counts.

Shapes: B users.
"""

import torch
from torch import Tensor

from greatmeta_dist.meta.scheduler import Scheduler
from greatmeta_dist.meta.user_statistics import UserStatistics
from greatmeta_dist.meta.weightings.base import UserWeighting, proportional_weights


class Cvar(UserWeighting):
    """w_i = 1/(sB) for the share s, ``worst_fraction``, of the users with the largest L(Q_i)."""

    def compute_weights(self, users: UserStatistics, scheduler: Scheduler | None) -> Tensor:
        loss = users.losses[:, 0]
        tail = self.worst_fraction * users.is_finite.sum().to(loss)
        return proportional_weights(_share_in_tail(loss, users.is_finite, tail), users)


def _share_in_tail(loss: Tensor, is_finite: Tensor, tail: Tensor) -> Tensor:
    """How much of each user [B], 0 to 1, is among the ``tail`` users with the largest losses.

    ``tail`` need be no whole number. Where it ends within users with the same loss, each of them
    has the same share, so that weights do not depend on the users' order.
    """
    loss = loss.masked_fill(~is_finite, -torch.inf)
    ascending = loss.sort().values
    num_not_above = torch.searchsorted(ascending, loss, right=True)
    num_tied = num_not_above - torch.searchsorted(ascending, loss)
    num_above = len(loss) - num_not_above
    return ((tail - num_above) / num_tied).clamp(0, 1)
