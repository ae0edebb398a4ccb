"""What a user of each preference group counts in training."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.priors.user_groups import UserGroup

SURE_ERRORS = 3.0
"""Standard errors that a group of users must be more difficult by to count more."""
FULL_EXCESS = 0.25
"""Share by which it is surely more difficult when it counts more in full."""


def equal_group_weights(groups: Sequence[UserGroup]) -> NDArray[np.float64]:
    """What a user of each group counts where all groups count the same: [G], 1 on average."""
    sizes = _sizes(groups)
    return sizes.sum() / (len(sizes) * sizes)


def difficulty_weights(groups: Sequence[UserGroup], balance_strength: float) -> NDArray[np.float64]:
    """What a user of each group counts where groups both rare and difficult count more: [G].

    max(1, 1/(G·share))^(``balance_strength`` · e), then 1 on average over the users. e says how far a
    group is more difficult than users are on the whole: 0 up to ``SURE_ERRORS`` standard errors,
    1 from ``FULL_EXCESS`` beyond them. Where no group stands out, all users count 1.
    """
    sizes = _sizes(groups)
    excess = np.array([c.difficulty - 1 - SURE_ERRORS * c.difficulty_error for c in groups])
    exponent = balance_strength * np.clip(excess / FULL_EXCESS, 0, 1)
    value = np.maximum(1, equal_group_weights(groups)) ** exponent
    balance: NDArray[np.float64] = value * sizes.sum() / np.dot(value, sizes)
    return balance


def _sizes(groups: Sequence[UserGroup]) -> NDArray[np.float64]:
    """Users of each group; one that none was put in counts as one of a single user."""
    return np.array([max(c.size, 1) for c in groups], np.float64)
