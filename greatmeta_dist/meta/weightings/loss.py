"""A user counts as much as its query loss after adaptation."""

from torch import Tensor

from greatmeta_dist.meta.magnitude import LEAST_LOSS
from greatmeta_dist.meta.scheduler import Scheduler
from greatmeta_dist.meta.user_statistics import UserStatistics
from greatmeta_dist.meta.weightings.base import UserWeighting, proportional_weights


class LossProportional(UserWeighting):
    """w_i ∝ L(Q_i)."""

    def compute_weights(self, users: UserStatistics, scheduler: Scheduler | None) -> Tensor:
        return proportional_weights(users.losses[:, 0].clamp(min=LEAST_LOSS), users)
