"""What to set where most users fall out."""

from collections import Counter

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.left_out import (
    COLD_ONLY,
    MERGED,
    NOT_HELD_OUT,
    NOT_IN_SPLIT,
    ONE_ROW,
    TOO_FEW,
    TOO_FEW_BEFORE,
    TOO_MANY,
)
from greatmeta_dist.data.summary import LogSummary

MANY = 0.5
"""Share of users past which it is said that they are left out."""
NO_NEW_USERS = (
    "no user comes at or after the point in time, so there is no user_cold scenario; for one, set "
    "an earlier data.split_at, or a larger data.split_last"
)


def advice(summary: LogSummary, config: DataConfig) -> str | None:
    """One line on the users left out and the option that keeps them; None where they are few."""
    num_out, num_users = summary.left_out.users.total(), summary.num_users
    if num_out <= MANY * num_users:
        return None
    rule, of_rule = summary.left_out.users.most_common(1)[0]
    by_rule = "" if of_rule == num_out else f"{of_rule:,} of these "
    return (
        f"{num_out / num_users:.0%} of the {num_users:,} users have no task, "
        f"{by_rule}because of: {rule}; {_remedy(rule, summary, config)}"
    )


def _remedy(rule: str, summary: LogSummary, config: DataConfig) -> str:
    if rule in (TOO_FEW, MERGED):
        return _lower_bound(summary.activity, config.min_interactions)
    if rule == COLD_ONLY and config.is_split_by_time and not config.cold_item_fraction:
        return LATER_POINT  # no item is held out but those that are new after the point
    return {
        TOO_MANY: "set data.max_interactions=null to keep them",
        COLD_ONLY: f"lower data.cold_item_fraction (now {config.cold_item_fraction:g})",
        ONE_ROW: NOTHING_TO_ASK,
        TOO_FEW_BEFORE: LATER_POINT,
        NOT_HELD_OUT: "set data.test_fraction above 0",
        NOT_IN_SPLIT: "name them there, or set data.split=null",
    }[rule]


LATER_POINT = "set a later data.split_at, or a smaller data.split_last"
NOTHING_TO_ASK = "a user needs one interaction to know and one to ask, so no option keeps them"


def _lower_bound(activity: Counter[int], least: int) -> str:
    """The greatest bound below ``least`` that keeps half the users, or 2."""
    num_users = activity.total()

    def share_kept(bound: int) -> float:
        return sum(users for count, users in activity.items() if count >= bound) / num_users

    if least <= 2 or share_kept(2) == share_kept(least):
        return NOTHING_TO_ASK
    bounds = [k for k in range(2, least) if share_kept(k) >= 0.5]
    bound = max(bounds, default=2)
    return f"data.min_interactions={bound} keeps {share_kept(bound):.0%} of the users"
