"""The recipe that assigns users to splits by a hash of their names.

Random choices are functions of the seed and of tokens (``hashing``). They do not depend on how the
log is stored or cut into buckets, nor (drawn negatives apart, see ``negatives``) on who and what
else is in it.

Shapes: U users of a bucket, n interactions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.hashing import Hashes, draw_bits, to_unit
from greatmeta_dist.data.left_out import COLD_NOT_ASKED, PAST_SUPPORT, user_rules
from greatmeta_dist.data.query_support import cap_supports, draws_of, latest_first, query_sizes
from greatmeta_dist.data.split import Bools, Catalogue, History, Ints, SplitTasks

KINDS = ("train", "valid", "test")
"""Kinds of users: each is of one."""


def split_by_hash(history: History, catalogue: Catalogue, config: DataConfig) -> SplitTasks:
    """Assign users to splits, and their interactions to support and query.

    Rows of a support and of a query stand by rank: random, or the latest first.
    """
    ranked = _Ranked.of(history, catalogue, config)
    reasons = {PAST_SUPPORT: ~ranked.is_cold, COLD_NOT_ASKED: ranked.is_cold}
    return SplitTasks.of(ranked.history, ranked.tasks(config), ranked.rule, reasons)


@dataclass(frozen=True)
class _Ranked:
    """A history in order of rank, and what decides where its interactions go."""

    history: History
    draw: Hashes
    """[n] random bits of each interaction."""
    is_cold: Bools
    """[n] whether the item is cold."""
    rank: Ints
    """[n] from 0, among the user's interactions with warm items, or with cold ones."""
    kind: NDArray[np.str_]
    """[U] ``train``, ``valid`` or ``test``."""
    query_size: Ints
    """[U]"""
    is_warm: Bools
    """[U] whether a training user is in the warm scenario, too."""
    has_cold: Bools
    """[U] whether the user has interactions with cold items."""
    rule: NDArray[np.str_]
    """[U] why the user has no tasks; empty for users who have."""

    @property
    def is_kept(self) -> Bools:
        """[n] whether the user has tasks."""
        return (self.rule == "")[self.history.user]

    @classmethod
    def of(cls, history: History, catalogue: Catalogue, config: DataConfig) -> "_Ranked":
        is_cold = catalogue.is_cold[history.item]
        order, draw = _rank_order(history, is_cold, catalogue, config)
        history, is_cold = history.take(order), is_cold[order]
        count = np.bincount(history.user, minlength=history.num_users)
        num_cold = history.count(is_cold)
        num_warm = count - num_cold
        # Each user's warm interactions come first, then the cold ones.
        start = np.cumsum(count) - count
        rank = np.arange(len(order)) - start[history.user]
        rank -= np.where(is_cold, num_warm[history.user], 0)
        # Purposes are hashed: another name for one would be another split.
        split = to_unit(draw_bits(history.hash, config.seed, "split"))
        kind = np.select(
            [split < config.test_fraction, split < config.test_fraction + config.valid_fraction],
            ["test", "valid"],
            "train",
        )
        is_warm = to_unit(draw_bits(history.hash, config.seed, "warm")) < config.warm_fraction
        is_warm &= (kind == "train") & (num_warm > 2)
        sizes = query_sizes(num_warm, config), query_sizes(num_warm, config, num_queries=2)
        return cls(
            history,
            draw[order],
            is_cold,
            rank,
            kind,
            np.where(is_warm, sizes[1], sizes[0]),
            is_warm,
            num_cold > 0,
            user_rules(history.num_rows, count, num_warm, config),
        )

    def tasks(self, config: DataConfig) -> dict[str, tuple[Ints, Bools]]:
        """The rows of every split's tasks, and which of them are of the query."""
        user, rank, query_size = self.history.user, self.rank, self.query_size[self.history.user]
        # A warm user trains and is tested. Their first interactions are the warm query and held
        # back from training, which has the next ones as its query and the rest as support. So
        # nothing that the warm scenario asks for was trained on; by time, it is what came last.
        train_rank = rank - np.where(self.is_warm[user], query_size, 0)
        is_kept, kind = self.is_kept, self.kind[user]
        is_train, is_valid, is_test = (is_kept & (kind == name) for name in KINDS)
        has_cold, is_warm_item = self.has_cold[user], ~self.is_cold
        warm_query = is_warm_item & (rank < query_size)
        cold_query = self.is_cold & (rank < query_size)
        train_query = is_warm_item & (train_rank >= 0) & (train_rank < query_size)

        def task(users: Bools, support: Bools, query: Bools) -> tuple[Ints, Bools]:
            rows = np.flatnonzero(users & (support | query))
            return rows, query[rows]

        def capped(support: Bools) -> Bools:
            return cap_supports(self.history, is_kept & support, self.draw, config)

        all_trained = capped(is_warm_item & (train_rank >= 0))
        after_query = capped(is_warm_item & (rank >= query_size))
        after_train_query = capped(is_warm_item & (train_rank >= query_size))
        return {
            "train": task(is_train, after_train_query, train_query),
            "valid": task(is_valid, after_query, warm_query),
            "warm": task(is_kept & self.is_warm[user], all_trained, warm_query),
            "user_cold": task(is_test, after_query, warm_query),
            "item_cold": task(is_train & has_cold, all_trained, cold_query),
            "both_cold": task(is_test & has_cold, after_query, cold_query),
        }


def _rank_order(
    history: History, is_cold: Bools, catalogue: Catalogue, config: DataConfig
) -> tuple[Ints, Hashes]:
    """The interactions [n] by user, warm items first, then in random order or the latest first.

    Returns with that order each interaction's random bits, in the order of ``history``. The random
    order is that of hashes, so it depends on the user's own interactions alone. Generator draws
    would depend on the order of the rows, and on the users before. Equal times are in random order,
    too.
    """
    draw = draws_of(history, catalogue, config)
    if config.query_by == "time":
        assert history.timestamp is not None
        return latest_first(2 * history.user + is_cold, history.timestamp, draw), draw
    # One key of 64 bits sorts several times as fast as three keys.
    num_bits = max(1, int(history.num_users).bit_length())
    key = history.user.astype(np.uint64) << np.uint64(64 - num_bits)
    key |= is_cold.astype(np.uint64) << np.uint64(63 - num_bits)
    key |= draw >> np.uint64(num_bits + 1)
    order = np.argsort(key)
    if (np.diff(key[order]) == 0).any():  # hardly ever: then by all bits
        return np.lexsort((draw, is_cold, history.user)), draw
    return order, draw
