"""Lists end to end, and integers grouped, against plain Python."""

import itertools

import numpy as np
import pytest

from greatmeta_dist.ragged import Grouped, Ragged, concatenate, join_lists, offsets_of, stable_order


def lists_of(ragged: Ragged) -> list[list[int]]:
    return [ragged.values[a:b].tolist() for a, b in itertools.pairwise(ragged.offsets)]


def random_lists(rng, num_lists: int) -> Ragged:
    lengths = rng.integers(0, 4, num_lists)
    return Ragged(rng.integers(0, 100, lengths.sum()), offsets_of(lengths))


def test_ragged_take_keeps_rows_and_order():
    ragged = Ragged(np.arange(6), offsets_of(np.array([2, 0, 3, 1])))
    taken = ragged.take(np.array([2, 1, 0, 2]))
    assert lists_of(taken) == [[2, 3, 4], [], [0, 1], [2, 3, 4]]


def test_ragged_take_of_nothing_is_empty():
    ragged = Ragged(np.arange(3), offsets_of(np.array([3])))
    assert len(ragged.take(np.empty(0, np.int64)).values) == 0


@pytest.mark.parametrize("seed", range(3))
def test_lists_are_joined_one_by_one_even_of_views(seed):
    rng = np.random.default_rng(seed)
    left, right = random_lists(rng, 9), random_lists(rng, 9)
    expected = [a + b for a, b in zip(lists_of(left), lists_of(right), strict=True)]
    assert lists_of(join_lists(left, right)) == expected
    views = (Ragged(side.values, side.offsets[3:]) for side in (left, right))
    assert lists_of(join_lists(*views)) == expected[3:]


def test_chunks_are_concatenated():
    rng = np.random.default_rng(0)
    chunks = [random_lists(rng, n) for n in (3, 0, 4)]
    expected = [of_list for chunk in chunks for of_list in lists_of(chunk)]
    assert lists_of(concatenate(chunks)) == expected


@pytest.mark.parametrize("highest", [1, 3, 1 << 16, 1 << 40])
def test_orders_are_stable_whatever_the_size_of_keys(highest):
    keys = np.random.default_rng(0).integers(0, highest, 500)
    assert np.array_equal(stable_order(keys), np.argsort(keys, kind="stable"))
    assert len(stable_order(keys[:0])) == 0


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_the_positions_of_equal_values(seed):
    values = np.random.default_rng(seed).integers(0, 12, 40)
    grouped = Grouped.of(values)
    assert grouped.distinct.tolist() == sorted(set(values.tolist()))
    assert np.array_equal(grouped.distinct[grouped.index], values)
    starts = [*grouped.start.tolist(), len(values)]
    for value, (first, last) in zip(grouped.distinct, itertools.pairwise(starts), strict=True):
        assert grouped.order[first:last].tolist() == np.flatnonzero(values == value).tolist()
