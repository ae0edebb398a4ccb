"""The recipe that splits users and their interactions at one global point in time.

- Users with a row before the point are training users, but for those that a hash of their names
  takes for validation. The tasks of both are of rows before it: the best step is chosen without a
  look at what comes later.
- Some of these are in the warm scenario, too: what they met at or after the point is asked for, and
  all of their rows before it are known.
- Users who come at or after the point are new, and tested: the latest of their rows are asked for,
  and the ones before them known.
- Items that are first met at or after the point are cold: no training row has them.

Interactions at the point itself are after it. Shapes: U users of a bucket, n interactions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.hashing import Hashes, draw_bits, to_unit
from greatmeta_dist.data.left_out import COLD_NOT_ASKED, LATE_NOT_ASKED, PAST_SUPPORT, period_rules
from greatmeta_dist.data.query_support import cap_supports, draws_of, latest_first, query_sizes
from greatmeta_dist.data.split import Bools, Catalogue, History, Ints, SplitTasks


def split_by_time(history: History, catalogue: Catalogue, config: DataConfig) -> SplitTasks:
    """Assign users to splits by their first row, and rows to support and query by their time.

    Rows of a support and of a query stand by time, the latest first.
    """
    timeline = _Timeline.of(history, catalogue, config)
    reasons = {
        PAST_SUPPORT: timeline.is_known,
        COLD_NOT_ASKED: timeline.is_cold,
        LATE_NOT_ASKED: timeline.is_after,
    }
    return SplitTasks.of(timeline.history, timeline.tasks(config), timeline.rule, reasons)


@dataclass(frozen=True)
class _Timeline:
    """A history in order of time, the latest first, and what decides where its rows go."""

    history: History
    draw: Hashes
    """[n] random bits of each interaction."""
    is_cold: Bools
    """[n] whether the item is cold."""
    is_after: Bools
    """[n] whether it is at or after the point."""
    is_new: Bools
    """[U] users without a row before the point."""
    rule: NDArray[np.str_]
    """[U] why the user has no tasks; empty for users who have."""
    is_known: Bools
    """[n] rows that a support may have: of warm items, and before the point unless the user is
    new."""

    @classmethod
    def of(cls, history: History, catalogue: Catalogue, config: DataConfig) -> "_Timeline":
        assert history.timestamp is not None
        assert catalogue.split_time is not None
        draw = draws_of(history, catalogue, config)
        # Equal times are in random order.
        order = latest_first(history.user, history.timestamp, draw)
        history = history.take(order)
        assert history.timestamp is not None
        is_cold = catalogue.is_cold[history.item]
        is_after = history.timestamp >= catalogue.split_time
        is_new = history.count(~is_after) == 0
        in_period = is_new[history.user] | ~is_after
        rule = period_rules(
            history.num_rows,
            np.bincount(history.user, minlength=history.num_users),
            history.count(in_period),
            history.count(in_period & ~is_cold),
            is_new,
            config,
        )
        is_known = in_period & ~is_cold & (rule == "")[history.user]
        return cls(history, draw[order], is_cold, is_after, is_new, rule, is_known)

    def tasks(self, config: DataConfig) -> dict[str, tuple[Ints, Bools]]:
        """The rows of every split's tasks, and which of them are of the query."""
        history, user = self.history, self.history.user
        has_tasks = self.rule == ""
        num_known = history.count(self.is_known)
        query_size = query_sizes(num_known, config)[user]
        query = self.is_known & (self._from_latest(self.is_known) < query_size)
        known = cap_supports(history, self.is_known, self.draw, config)
        before_query = cap_supports(history, self.is_known & ~query, self.draw, config)

        draw = to_unit(draw_bits(history.hash, config.seed, "split"))
        is_valid = ~self.is_new & (draw < config.valid_fraction)
        is_training, is_validation, is_test = (
            (has_tasks & kind)[user] for kind in (~self.is_new & ~is_valid, is_valid, self.is_new)
        )
        is_drawn = to_unit(draw_bits(history.hash, config.seed, "warm")) < config.warm_fraction

        # What is asked of training users, and of new ones about cold items, is what comes first:
        # right after all that is known.
        is_asked = self.is_after & is_training
        warm_query = self._first(is_asked & ~self.is_cold & is_drawn[user], config.query_items)
        cold_query = self._first(is_asked & self.is_cold, config.query_items)
        is_late = self.is_cold & is_test & self._is_past_support(query)
        both_cold_query = self._first(is_late, query_size)

        def task(users: Bools, support: Bools, query: Bools) -> tuple[Ints, Bools]:
            """Tasks of the users who have such a query."""
            query = users & query
            rows = np.flatnonzero(query | (users & support & (history.count(query) > 0)[user]))
            return rows, query[rows]

        return {
            "train": task(is_training, before_query, query),
            "valid": task(is_validation, before_query, query),
            "warm": task(is_training, known, warm_query),
            "user_cold": task(is_test, before_query, query),
            "item_cold": task(is_training, known, cold_query),
            "both_cold": task(is_test, before_query, both_cold_query),
        }

    def _from_latest(self, rows: Bools) -> Ints:
        """[n] the position of each of the ``rows`` among the user's, from 0 for the latest."""
        count = self.history.count(rows)
        return np.cumsum(rows) - 1 - (np.cumsum(count) - count)[self.history.user]

    def _first(self, rows: Bools, number: Ints | int | None) -> Bools:
        """Of the ``rows`` the first ones by time, so many of each user; all where None."""
        if number is None:
            return rows
        count = self.history.count(rows)[self.history.user]
        return rows & (count - 1 - self._from_latest(rows) < number)

    def _is_past_support(self, query: Bools) -> Bools:
        """[n] rows no earlier than the user's earliest row of ``query``."""
        assert self.history.timestamp is not None
        earliest = np.full(self.history.num_users, np.inf)
        np.minimum.at(earliest, self.history.user[query], self.history.timestamp[query])
        return self.history.timestamp >= earliest[self.history.user]
