"""Which preference group each user is in, for training and for records."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.data.store import UserTasks
from greatmeta_dist.priors.user_groups import UserGroupsPrior, minority_groups
from greatmeta_dist.ragged import join_lists


@dataclass(frozen=True)
class UserGrouping:
    """Groups that were found in the log, and the true ones where data are synthetic.

    Training goes by the groups that were found, for no real system knows the true ones. Records go
    by the true ones where there are any.
    """

    prior: UserGroupsPrior
    known_groups: dict[str, int]
    """True groups and their training users; empty where nobody knows them."""
    minority_share: float

    @property
    def names(self) -> list[str]:
        """The groups of the records."""
        return list(self.known_groups) or self.prior.names

    @property
    def minority(self) -> list[int]:
        """The smallest groups of the records, as indices into ``names``."""
        if not self.known_groups:
            return self.prior.minority
        sizes = np.array(list(self.known_groups.values()))
        return minority_groups(sizes, self.minority_share)

    def found(self, users: UserTasks, *, is_training: bool) -> NDArray[np.int32]:
        """[users] the group found for each; of a training user, the query rows are known too."""
        tasks = users.tasks
        item, rating = tasks.support_item, tasks.support_label
        if is_training:
            item = join_lists(item, tasks.query_item)
            rating = join_lists(rating, tasks.query_label)
        return self.prior.assign(item, rating.values)

    def recorded(self, users: UserTasks, *, is_training: bool = False) -> NDArray[np.int32]:
        """[users] the group that records tell users apart by."""
        if users.known_group is not None:
            return users.known_group
        return self.found(users, is_training=is_training)
