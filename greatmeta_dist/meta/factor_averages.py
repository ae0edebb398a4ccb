"""Running means of users' factors over their visits: one visit says little of a user."""

import torch
from torch import Tensor

from greatmeta_dist.meta.factors import FactorSizes
from greatmeta_dist.meta.layer_input import all_finite

VISITS_KEPT = 10
"""A user's running mean moves a tenth of the way to the newest visit once it has so many."""


class FactorAverages:
    """Averaged factors of the training users whose lanes one worker hosts, in their order.

    Shapes: B users of a batch.
    """

    def __init__(
        self, num_users: int, sizes: FactorSizes, device: torch.device, *, first_user: int
    ):
        """``first_user`` is the index of the first of them among all training users."""
        self.first_user = first_user
        self.mean = torch.zeros(num_users, sizes.total - sizes.context, device=device)
        """[users, ·] all factors but the context, which is another at every visit."""
        self.visits = torch.zeros(num_users, dtype=torch.int32, device=device)
        """[users] number of visits, up to ``VISITS_KEPT``."""

    def update(self, user_index: Tensor, columns: Tensor) -> Tensor:
        """Take in a visit's factor columns [B, ·] of users [B], in place; their means, it included.

        The context's columns, the last ones (see ``Factors.context``), stay the visit's. A mean
        that is not finite is given back, so that its user counts nothing in this step, but not
        kept.
        """
        position, width = user_index - self.first_user, self.mean.shape[1]
        before, visits_before = self.mean[position], self.visits[position]
        visits = (visits_before + 1).clamp(max=VISITS_KEPT)
        mean = before + (columns[:, :width] - before) / visits.unsqueeze(1)
        is_kept = all_finite(mean)
        self.mean.index_copy_(0, position, torch.where(is_kept.unsqueeze(1), mean, before))
        self.visits.index_copy_(0, position, torch.where(is_kept, visits, visits_before))
        return torch.cat((mean, columns[:, width:]), 1)
