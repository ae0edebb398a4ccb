"""Support sets split anew or shortened hold the same users' rows."""

import numpy as np
import pytest
from random_tasks import make_tasks

from greatmeta_dist.batching.resample import resample_support_query, shorten


def rows_of(tasks, u: int) -> list[tuple[int, float]]:
    rows: list[tuple[int, float]] = []
    for role in ("support", "query"):
        items, labels = getattr(tasks, f"{role}_item"), getattr(tasks, f"{role}_label")
        of_user = slice(items.offsets[u], items.offsets[u + 1])
        rows += list(
            zip(items.values[of_user].tolist(), labels.values[of_user].tolist(), strict=True)
        )
    return rows


def test_resampling_keeps_each_users_rows_and_sizes():
    tasks = make_tasks(np.random.default_rng(3)).table
    again = resample_support_query(tasks, np.random.default_rng(0))
    moved = False
    for u in range(len(tasks)):
        assert sorted(rows_of(tasks, u)) == sorted(rows_of(again, u))
        moved |= rows_of(tasks, u) != rows_of(again, u)
    assert moved
    assert (again.query_item.lengths == tasks.query_item.lengths).all()
    assert (again.support_label.offsets == tasks.support_label.offsets).all()


@pytest.mark.parametrize("length", [1, 3, 99])
@pytest.mark.parametrize("is_random", [False, True])
def test_a_shortened_support_is_some_of_the_users_rows(length, is_random):
    tasks = make_tasks(np.random.default_rng(2), longest=8).table
    short = shorten(tasks, length, np.random.default_rng(0) if is_random else None)
    assert np.array_equal(short.query_item.values, tasks.query_item.values)
    for user, whole in enumerate(tasks.support_item.lengths):
        was, now = (
            list(
                zip(
                    t.support_item.values[slice(*t.support_item.offsets[user : user + 2])],
                    t.support_label.values[slice(*t.support_label.offsets[user : user + 2])],
                    strict=True,
                )
            )
            for t in (tasks, short)
        )
        assert len(now) == min(whole, length)
        if is_random:
            assert sorted(set(now)) == sorted(set(now) & set(was))
        else:
            assert now == was[:length]


def test_short_supports_are_some_users_and_leave_the_query_as_it_is():
    tasks = make_tasks(np.random.default_rng(3), num_users=400, longest=30).table
    whole = resample_support_query(tasks, np.random.default_rng(0))
    short = resample_support_query(tasks, np.random.default_rng(0), short_support_rate=0.5)
    assert np.array_equal(whole.query_item.values, short.query_item.values)
    assert np.array_equal(whole.query_label.values, short.query_label.values)
    lengths, before = short.support_item.lengths, tasks.support_item.lengths
    assert (lengths >= np.minimum(before, 1)).all()
    assert (lengths <= before).all()
    long = before > 20
    assert 0.35 < np.mean(lengths[long] < before[long]) < 0.6
    for user in range(len(tasks)):
        kept = slice(*short.support_item.offsets[user : user + 2])
        all_of = slice(*whole.support_item.offsets[user : user + 2])
        rows = whole.support_item.values[all_of]
        assert np.array_equal(short.support_item.values[kept], rows[: lengths[user]])


def test_the_same_generator_gives_the_same_split():
    tasks = make_tasks(np.random.default_rng(3)).table
    one, two, other = (resample_support_query(tasks, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(one.support_item.values, two.support_item.values)
    assert not np.array_equal(one.support_item.values, other.support_item.values)
