"""Counts of the training rows are those of a plain loop over all buckets."""

import numpy as np
import polars as pl
import pytest

from greatmeta_dist.data.counts import TrainingCounts
from greatmeta_dist.data.hashing import hash_tokens
from greatmeta_dist.data.split import History, SplitRows

NUM_ITEMS = 7


def bucket(number: int) -> tuple[History, SplitRows]:
    """A bucket of five users, of whom some train."""
    rng = np.random.default_rng(number)
    tokens = pl.Series([f"{number}-{k}" for k in range(5)])
    user = np.sort(rng.integers(5, size=20))
    item = rng.integers(NUM_ITEMS - 1, size=20).astype(np.int32)
    history = History(
        tokens, hash_tokens(tokens), user, item, rng.normal(size=20), None, np.bincount(user)
    )
    rows = np.flatnonzero(user != 2)
    return history, SplitRows.of(history, rows, np.zeros(len(rows), bool))


def test_counts_are_those_of_a_plain_loop():
    counts = TrainingCounts.zeros(NUM_ITEMS)
    count, total, squares = ([0.0] * NUM_ITEMS for _ in range(3))
    users, ratings = set(), []
    for number in range(3):
        history, rows = bucket(number)
        counts.add(history, rows)
        for u, i, r in zip(rows.user, rows.item, rows.rating, strict=True):
            count[i] += 1
            total[i] += r
            squares[i] += r**2
            users.add(history.token[int(u)])
            ratings.append(r)
    assert counts.item_count.tolist() == count
    assert counts.item_count[-1] == 0
    assert counts.item_sum == pytest.approx(total)
    assert counts.item_squares == pytest.approx(squares)
    tokens = pl.concat(counts.users).to_list()
    assert sorted(tokens) == sorted(users)
    assert counts.mean == pytest.approx(np.mean(ratings))
    summary = counts.ratings(None)
    assert (summary.lowest, summary.highest) == (min(ratings), max(ratings))
    assert summary.deviation == pytest.approx(np.std(ratings))
    assert summary.count == len(ratings)
    given = counts.ratings([1.0, 5.0])
    assert (given.lowest, given.highest) == (1.0, 5.0)


def test_a_bucket_without_training_rows_changes_nothing():
    counts = TrainingCounts.zeros(NUM_ITEMS)
    history, _ = bucket(0)
    nothing = np.empty(0, np.int64)
    counts.add(history, SplitRows.of(history, nothing, nothing.astype(bool)))
    assert not counts.item_count.any()
    assert counts.users == []
