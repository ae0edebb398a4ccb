"""All users count the same: first-order MAML."""

import torch
from torch import Tensor

from greatmeta_dist.meta.scheduler import Scheduler
from greatmeta_dist.meta.user_statistics import UserStatistics
from greatmeta_dist.meta.weightings.base import UserWeighting, proportional_weights


class Uniform(UserWeighting):
    """w_i = 1/B."""

    def compute_weights(self, users: UserStatistics, scheduler: Scheduler | None) -> Tensor:
        return proportional_weights(torch.ones_like(users.target_weight), users)
