"""Which preference group each user is in, for training and for reports."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.data.store import UserTasks
from greatmeta_dist.priors.user_groups import UserGroupsPrior, minority_groups
from greatmeta_dist.ragged import Ragged, join_lists


@dataclass(frozen=True)
class UserGrouping:
    """Estimated groups for training, and for reports the true ones where data are synthetic.

    Training never goes by the true groups: no real system knows them.
    """

    prior: UserGroupsPrior
    known_groups: dict[str, int]
    """True groups and their training users; empty where nobody knows them."""
    minority_share: float
    """As ``priors.user_groups.minority_share``."""
    num_items: int | None = None
    """Rows of items from this index on tell nothing of a user's group; None where all tell."""

    @property
    def names(self) -> list[str]:
        """Names of the groups in reports."""
        return list(self.known_groups) or self.prior.names

    @property
    def minority(self) -> list[int]:
        """The smallest groups in reports, as indices into ``names``."""
        if not self.known_groups:
            return self.prior.minority
        sizes = np.array(list(self.known_groups.values()))
        return minority_groups(sizes, self.minority_share)

    def estimated(self, users: UserTasks, *, is_training: bool) -> NDArray[np.int32]:
        """[users] the estimated group of each, from its support rows.

        A training user's query rows count too.
        """
        tasks = users.tasks
        item, rating = tasks.support_item, tasks.support_label
        if is_training:
            item = join_lists(item, tasks.query_item)
            rating = join_lists(rating, tasks.query_label)
        if self.num_items is not None:
            is_known = item.values < self.num_items
            num_known = np.concatenate(([0], np.cumsum(is_known)))
            offsets = num_known[item.offsets]
            item = Ragged(item.values[is_known], offsets)
            rating = Ragged(rating.values[is_known], offsets)
        return self.prior.assign(item, rating.values)

    def recorded(self, users: UserTasks) -> NDArray[np.int32]:
        """[users] the group of each in reports, of users who are not trained on."""
        if users.known_group is not None:
            return users.known_group
        return self.estimated(users, is_training=False)
