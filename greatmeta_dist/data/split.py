"""Which interaction is in whose support or query, and in which split: by the recipe in the options.

The splits are ``train``, ``valid`` and the four scenarios ``warm``, ``user_cold``, ``item_cold``,
``both_cold``; a task is a (split, user) pair.

Random choices are functions of the seed and of tokens (``hashing``). They do not depend on how the
log is stored or cut into buckets, nor (drawn negatives apart, see ``negatives``) on who and what
else is in it.

Shapes: U users of a bucket, n interactions, I items of the catalogue.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.hashing import (
    Hashes,
    draw_bits,
    pair_hashes,
    to_unit,
    uniform_hash,
)

SCENARIOS = ("warm", "user_cold", "item_cold", "both_cold")
SPLITS = ("train", "valid", *SCENARIOS)
ROLES = ("support", "query")

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Catalogue:
    """What splitting must know of the items."""

    token: pl.Series
    """[I]"""
    hash: Hashes
    """[I] of the tokens."""
    is_cold: Bools
    """[I] held out: no training task may have the item."""


@dataclass(frozen=True)
class History:
    """All interactions of some users, user by user; no user has an item twice."""

    token: pl.Series
    """[U] the users, in the order in which a shard has them."""
    hash: Hashes
    """[U] of the tokens."""
    user: Ints
    """[n] which user each interaction is of; ascending."""
    item: NDArray[np.int32]
    """[n] index into the catalogue."""
    rating: NDArray[np.float64]
    """[n]"""
    timestamp: NDArray[np.float64] | None
    """[n] seconds; None where the log has none."""

    @property
    def num_users(self) -> int:
        return len(self.token)

    def take(self, rows: Ints) -> "History":
        """The interactions in another order, which must keep users together and ascending."""
        return History(
            self.token,
            self.hash,
            self.user[rows],
            self.item[rows],
            self.rating[rows],
            None if self.timestamp is None else self.timestamp[rows],
        )


@dataclass(frozen=True)
class SplitRows:
    """The rows of one split's tasks, task by task."""

    user: Ints
    """[rows] index into the history's users; ascending."""
    item: NDArray[np.int32]
    """[rows]"""
    rating: NDArray[np.float64]
    """[rows]"""
    is_query: Bools
    """[rows]"""

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def of(cls, history: History, rows: Ints, is_query: Bools) -> "SplitRows":
        """The interactions ``rows`` of a history."""
        return cls(history.user[rows], history.item[rows], history.rating[rows], is_query)


@dataclass(frozen=True)
class SplitTasks:
    """A bucket's tasks, and what became of the other interactions."""

    history: History
    splits: dict[str, SplitRows]
    num_out_of_bounds: int
    """Interactions of users who have too few or too many, or no more than their query takes."""
    num_unused: int
    """Other users' interactions that are in no task."""


def held_out_items(tokens: pl.Series, config: DataConfig) -> Bools:
    """[I] whether an item is cold: no training task may have it."""
    return uniform_hash(tokens, config.seed, "item") < config.cold_item_fraction


def split_by_recipe(history: History, catalogue: Catalogue, config: DataConfig) -> SplitTasks:
    """Assign users to splits, and their interactions to support and query.

    Rows of a support and of a query stand by rank: random, or the latest first.
    """
    ranked = _Ranked.of(history, catalogue, config)
    splits = ranked.tasks(config)
    is_used = np.zeros(len(ranked.history.user), bool)
    rows_by_split = {}
    for name, (rows, is_query) in splits.items():
        is_used[rows] = True
        rows_by_split[name] = SplitRows.of(ranked.history, rows, is_query)
    num_kept = int(ranked.is_kept.sum())
    return SplitTasks(
        ranked.history,
        rows_by_split,
        num_out_of_bounds=len(history.user) - num_kept,
        num_unused=num_kept - int(is_used.sum()),
    )


@dataclass(frozen=True)
class _Ranked:
    """A history in order of rank, and what decides where its interactions go."""

    history: History
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
    is_kept: Bools
    """[n] whether the user has tasks."""

    @classmethod
    def of(cls, history: History, catalogue: Catalogue, config: DataConfig) -> "_Ranked":
        is_cold = catalogue.is_cold[history.item]
        order = _rank_order(history, is_cold, catalogue, config)
        history, is_cold = history.take(order), is_cold[order]
        num_users = history.num_users
        count = np.bincount(history.user, minlength=num_users)
        num_cold = np.bincount(history.user[is_cold], minlength=num_users)
        num_warm = count - num_cold
        # Each user's warm interactions come first, then the cold ones.
        start = np.cumsum(count) - count
        rank = np.arange(len(order)) - start[history.user]
        rank -= np.where(is_cold, num_warm[history.user], 0)
        if config.query_items is not None:
            query_size = np.full(num_users, config.query_items)
        else:
            assert config.query_fraction is not None
            query_size = np.ceil(num_warm * config.query_fraction).astype(np.int64)
        has_tasks = (count >= config.min_interactions) & (num_warm > query_size)
        if config.max_interactions is not None:
            has_tasks &= count <= config.max_interactions
        # Purposes are hashed: another name for one would be another split.
        draw = to_unit(draw_bits(history.hash, config.seed, "split"))
        kind = np.select(
            [draw < config.test_fraction, draw < config.test_fraction + config.valid_fraction],
            ["test", "valid"],
            "train",
        )
        is_warm = to_unit(draw_bits(history.hash, config.seed, "warm")) < config.warm_fraction
        is_warm &= (kind == "train") & (num_warm > 2 * query_size)
        return cls(
            history,
            is_cold,
            rank,
            kind,
            query_size,
            is_warm,
            num_cold > 0,
            has_tasks[history.user],
        )

    def tasks(self, config: DataConfig) -> dict[str, tuple[Ints, Bools]]:
        """The rows of every split's tasks, and which of them are of the query."""
        user, rank, query_size = self.history.user, self.rank, self.query_size[self.history.user]
        # A warm user trains and is tested. Their first interactions are the warm query and held
        # back from training, which has the next ones as its query and the rest as support. So
        # nothing that the warm scenario asks for was trained on; by time, it is what came last.
        train_rank = rank - np.where(self.is_warm[user], query_size, 0)
        kind = self.kind[user]
        is_train, is_valid, is_test = (
            self.is_kept & (kind == name) for name in ("train", "valid", "test")
        )
        has_cold = self.has_cold[user]
        warm_query = ~self.is_cold & (rank < query_size)
        cold_query = self.is_cold & (rank < query_size)
        train_query = ~self.is_cold & (train_rank >= 0) & (train_rank < query_size)

        def support_from(first: Ints | int, rank: Ints) -> Bools:
            """Warm items' interactions from the given rank on, as many as a support may have."""
            is_after = ~self.is_cold & (rank >= first)
            if config.max_support_items is None:
                return is_after
            return is_after & (rank < first + config.max_support_items)

        def task(users: Bools, support: Bools, query: Bools) -> tuple[Ints, Bools]:
            rows = np.flatnonzero(users & (support | query))
            return rows, query[rows]

        all_trained, after_query = support_from(0, train_rank), support_from(query_size, rank)
        return {
            "train": task(is_train, support_from(query_size, train_rank), train_query),
            "valid": task(is_valid, after_query, warm_query),
            "warm": task(self.is_kept & self.is_warm[user], all_trained, warm_query),
            "user_cold": task(is_test, after_query, warm_query),
            "item_cold": task(is_train & has_cold, all_trained, cold_query),
            "both_cold": task(is_test & has_cold, after_query, cold_query),
        }


def _rank_order(history: History, is_cold: Bools, catalogue: Catalogue, config: DataConfig) -> Ints:
    """The interactions [n] by user, warm items first, then in random order or the latest first.

    The random order is that of hashes, so it depends on the user's own interactions alone.
    Generator draws would depend on the order of the rows, and on the users before. Equal times are
    in random order, too.
    """
    pairs = pair_hashes(history.hash[history.user], catalogue.hash[history.item])
    draw = draw_bits(pairs, config.seed, "query")
    if config.query_by == "time":
        assert history.timestamp is not None
        return np.lexsort((draw, -history.timestamp, is_cold, history.user))
    # One key of 64 bits sorts several times as fast as three keys.
    num_bits = max(1, int(history.num_users).bit_length())
    key = history.user.astype(np.uint64) << np.uint64(64 - num_bits)
    key |= is_cold.astype(np.uint64) << np.uint64(63 - num_bits)
    key |= draw >> np.uint64(num_bits + 1)
    order = np.argsort(key)
    if (np.diff(key[order]) == 0).any():  # hardly ever: then by all bits
        return np.lexsort((draw, is_cold, history.user))
    return order
