"""What splitting a log takes and makes: users' histories, and the tasks of each split.

The splits are ``train``, ``valid`` and the four scenarios ``warm``, ``user_cold``, ``item_cold``,
``both_cold``; a task is a (split, user) pair.

Shapes: U users of a bucket, n interactions, I items of the catalogue.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.hashing import Hashes, uniform_hash
from greatmeta_dist.data.left_out import LeftOut

SCENARIOS = ("warm", "user_cold", "item_cold", "both_cold")
SPLITS = ("train", "valid", *SCENARIOS)
ROLES = ("support", "query")

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Catalogue:
    """What splitting must know of the items, and of the whole log."""

    token: pl.Series
    """[I]"""
    hash: Hashes
    """[I] of the tokens."""
    is_cold: Bools
    """[I] held out: no training task may have the item."""
    split_time: float | None = None
    """The point in time before which all training rows lie; None where users are split by hash."""


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
    num_rows: Ints
    """[U] rows of each user in the log, repeats included."""

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
            self.num_rows,
        )

    def count(self, rows: Bools) -> Ints:
        """[U] how many of the chosen interactions [n] each user has."""
        return np.bincount(self.user[rows], minlength=self.num_users)


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
    left_out: LeftOut

    @classmethod
    def of(
        cls,
        history: History,
        tasks: dict[str, tuple[Ints, Bools]],
        rule: NDArray[np.str_],
        reasons: dict[str, Bools],
    ) -> "SplitTasks":
        """From the rows of each split's tasks, and which of these are of the query.

        ``rule`` [U] says why users have no tasks, and is empty for those who have. Interactions of
        these that no task takes are counted by the first of the ``reasons`` [n] that holds.
        """
        left_out = LeftOut.of_users(rule, np.bincount(history.user, minlength=len(rule)))
        is_used, is_left_out = np.zeros(len(history.user), bool), rule != ""
        for rows, _ in tasks.values():
            is_used[rows] = True
        is_counted = is_used | is_left_out[history.user]
        for reason, holds in reasons.items():
            left_out.unused[reason] = int((holds & ~is_counted).sum())
            is_counted |= holds
        assert is_counted.all()
        splits = {name: SplitRows.of(history, *task) for name, task in tasks.items()}
        return cls(history, splits, left_out)


def held_out_items(tokens: pl.Series, config: DataConfig) -> Bools:
    """[I] whether an item is cold: no training task may have it."""
    return uniform_hash(tokens, config.seed, "item") < config.cold_item_fraction
