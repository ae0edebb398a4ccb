"""All preference groups count the same, whatever their sizes. Shapes: B users, G groups."""

from torch import Tensor

from greatmeta_dist.meta.scheduler import Scheduler
from greatmeta_dist.meta.user_statistics import UserStatistics
from greatmeta_dist.meta.weightings.base import (
    Float64Array,
    GroupStatistics,
    UserWeighting,
    proportional_weights,
)


class EqualGroups(UserWeighting):
    """w_i ∝ 1/(size of the user's group)."""

    def target_weights(self, groups: GroupStatistics) -> Float64Array:
        """[G] 1/(G·share of the users)."""
        return equal_group_weights(groups)

    def compute_weights(self, users: UserStatistics, scheduler: Scheduler | None) -> Tensor:
        return proportional_weights(users.target_weight, users)


def equal_group_weights(groups: GroupStatistics) -> Float64Array:
    """How much a user of each group counts where all groups count the same: [G], 1 on average."""
    size = filled_sizes(groups)
    return size.sum() / (len(size) * size)


def filled_sizes(groups: GroupStatistics) -> Float64Array:
    """Users of each group [G]; one without users counts as one of a single user."""
    return groups.size.clip(min=1)
