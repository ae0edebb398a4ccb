"""Users who have no task, by the rule that leaves them out; and interactions that no task takes.

Every such user and interaction is counted by exactly one rule. Counts of buckets add up, in any
order.

Shapes: U users of a bucket, n interactions.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.config import DataConfig

Ints = NDArray[np.int64]

TOO_MANY = "more than data.max_interactions"
TOO_FEW = "fewer than data.min_interactions"
MERGED = "too few once repeats are merged"
COLD_ONLY = "too few without held-out items"
ONE_ROW = "one row, and a task needs two"
NOT_IN_SPLIT = "not in the file data.split"
USER_RULES = (TOO_MANY, MERGED, TOO_FEW, COLD_ONLY, ONE_ROW)
"""The recipe's rules, in the order in which they are looked at."""
TOO_FEW_BEFORE = "too few before the point in time"
NOT_HELD_OUT = "new after the point in time, and data.test_fraction=0"
PAST_SUPPORT = "past data.max_support"
COLD_NOT_ASKED = "of held-out items, past what is asked"
LATE_NOT_ASKED = "at or after the point in time, past what is asked"


@dataclass
class LeftOut:
    """Counts of what is in no task, by rule."""

    users: Counter[str] = field(default_factory=Counter)
    """Users without a task."""
    rows: Counter[str] = field(default_factory=Counter)
    """Their interactions."""
    unused: Counter[str] = field(default_factory=Counter)
    """Other users' interactions that are in no task."""

    @classmethod
    def of_users(cls, rule: NDArray[np.str_], num_interactions: Ints) -> "LeftOut":
        """Counts of users [U], each with the rule that leaves it out (empty where none does)."""
        left_out = cls()
        for name in np.unique(rule[rule != ""]).tolist():
            is_out = rule == name
            left_out.users[name] = int(is_out.sum())
            left_out.rows[name] = int(num_interactions[is_out].sum())
        return left_out

    def add(self, other: "LeftOut") -> None:
        """Add another bucket's counts."""
        self.users += other.users
        self.rows += other.rows
        self.unused += other.unused

    @property
    def num_rows(self) -> int:
        return self.rows.total()

    @property
    def num_unused(self) -> int:
        return self.unused.total()


def user_rules(
    num_rows: Ints, num_interactions: Ints, num_warm: Ints, config: DataConfig
) -> NDArray[np.str_]:
    """[U] the rule that leaves each user out; empty for users with tasks.

    ``num_rows`` counts a user's rows in the log, ``num_interactions`` what is left once repeats are
    merged, ``num_warm`` those with items that are not held out.
    """
    least, most = config.min_interactions, config.max_interactions
    is_too_many = np.zeros(len(num_rows), bool) if most is None else num_interactions > most
    is_too_few = num_interactions < least
    is_merged = (is_too_few & (num_rows >= least)) | ((num_interactions < 2) & (num_rows >= 2))
    has_no_task = num_warm < 2
    conditions = [
        is_too_many,
        is_merged,
        is_too_few,
        has_no_task & (num_interactions >= 2),
        has_no_task,
    ]
    return np.select(conditions, USER_RULES, "")


def period_rules(
    num_rows: Ints,
    num_interactions: Ints,
    num_in_period: Ints,
    num_warm: Ints,
    is_new: NDArray[np.bool_],
    config: DataConfig,
) -> NDArray[np.str_]:
    """``user_rules`` of users who are split by time: bounds are of the rows they are known by.

    These are ``num_in_period``: rows before the point, or all of users who are new after it.
    """
    rule = user_rules(num_rows, num_in_period, num_warm, config)
    is_few = np.isin(rule, (TOO_FEW, ONE_ROW))
    had_enough = num_interactions >= max(2, config.min_interactions)
    rule = np.where(~is_new & is_few & had_enough, TOO_FEW_BEFORE, rule)
    if config.test_fraction == 0:
        rule = np.where(is_new, NOT_HELD_OUT, rule)
    return rule
