"""Buckets by length save padding where it costs more than a bucket does."""

import numpy as np
import pytest

from greatmeta_dist.batching.length_buckets import BUCKET_COST_ROWS, length_buckets


def padded(lengths, buckets) -> int:
    return sum((p.stop - p.start) * int(lengths[p].max()) for p in buckets)


@pytest.mark.parametrize("seed", range(4))
def test_buckets_cover_every_user_once_and_save_padding(seed):
    lengths = np.sort(np.random.default_rng(seed).geometric(0.01, 64))
    buckets = length_buckets(lengths)
    assert [p.start for p in buckets[1:]] == [p.stop for p in buckets[:-1]]
    assert (buckets[0].start, buckets[-1].stop) == (0, 64)
    saved = 64 * int(lengths.max()) - padded(lengths, buckets)
    assert saved > (len(buckets) - 1) * BUCKET_COST_ROWS


@pytest.mark.parametrize("seed", range(4))
def test_one_long_set_is_padded_for_by_nobody_else(seed):
    rng = np.random.default_rng(seed)
    support, query = rng.geometric(0.01, 64), np.full(64, 10)
    query[rng.integers(64)] = 50_000
    order = np.argsort(support + query)
    support, query = support[order], query[order]
    buckets = length_buckets(support, query)
    assert buckets[-1] == slice(63, 64)
    rows = int((support + query).sum())
    padding = padded(support, buckets) + padded(query, buckets) - rows
    assert padding < len(buckets) * BUCKET_COST_ROWS * (1 + np.log(64))


def test_equal_or_short_users_stay_in_one_bucket():
    assert length_buckets(np.full(500, 90)) == [slice(0, 500)]
    assert length_buckets(np.array([1, 3, 10])) == [slice(0, 3)]


def test_users_are_cut_where_that_saves_most():
    lengths = np.repeat([10, 500], [20, 20])
    assert length_buckets(lengths) == [slice(0, 20), slice(20, 40)]
    assert length_buckets(lengths[:1]) == [slice(0, 1)]
    assert length_buckets(lengths[:0]) == [slice(0, 0)]
