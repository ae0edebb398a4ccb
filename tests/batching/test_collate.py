"""Batches hold exactly the tasks they were built from."""

import itertools

import numpy as np
import pytest
import torch
from random_tasks import make_tasks

from greatmeta_dist.batching.collate import build_batch
from greatmeta_dist.batching.resample import resample_support_query, shorten
from greatmeta_dist.data.tasks import FeatureMask
from greatmeta_dist.ragged import Ragged, offsets_of


def test_ragged_take_keeps_rows_and_order():
    ragged = Ragged(np.arange(6), offsets_of(np.array([2, 0, 3, 1])))
    taken = ragged.take(np.array([2, 1, 0, 2]))
    rows = [taken.values[a:b].tolist() for a, b in zip(taken.offsets, taken.offsets[1:])]  # noqa: B905
    assert rows == [[2, 3, 4], [], [0, 1], [2, 3, 4]]


def test_ragged_take_of_nothing_is_empty():
    ragged = Ragged(np.arange(3), offsets_of(np.array([3])))
    assert len(ragged.take(np.empty(0, np.int64)).values) == 0


@pytest.mark.parametrize("seed", range(5))
def test_batch_rows_decode_to_the_users_own_features(seed):
    tasks = make_tasks(np.random.default_rng(seed))
    chosen = np.random.default_rng(seed).permutation(len(tasks.users))[:5]
    batch = build_batch(
        tasks.table, tasks.items, chosen, has_support_gradient=True, has_row_norms=True
    )
    assert (batch.rows.diff() > 0).all()
    for b, u in enumerate(chosen):
        user = tasks.users[u]
        assert decode(batch, batch.user_slots, b) == [sorted(f) for f in user.user_fields]
        for which in ("support", "query"):
            rows = getattr(batch, which)
            expected = getattr(user, which)
            assert int((rows.row_weight[b] > 0).sum()) == len(expected)
            found = [
                decode(batch, batch.item_slots, int(rows.item[b, r])) for r in range(len(expected))
            ]
            assert found == [[sorted(f) for f in row] for row in expected]
            labels = getattr(user, f"{which}_label")
            assert rows.label[b, : len(labels)].tolist() == pytest.approx(labels)


def decode(batch, slots, entity: int) -> list[list[int]]:
    """Global embedding rows of each field of an entity, sorted."""
    starts = [*slots.start.flatten().tolist(), len(slots.row)]
    num_fields = slots.start.shape[1]
    bounds = starts[entity * num_fields : (entity + 1) * num_fields + 1]
    return [sorted(batch.rows[slots.row[a:b]].tolist()) for a, b in itertools.pairwise(bounds)]


def test_mean_pooling_weighs_values_by_their_number():
    tasks = make_tasks(np.random.default_rng(0))
    batch = build_batch(
        tasks.table, tasks.items, np.arange(3), has_support_gradient=False, has_row_norms=True
    )
    start = torch.cat((batch.item_slots.start.flatten(), torch.tensor([len(batch.item_slots.row)])))
    weights = batch.item_slots.weight.split(start.diff().tolist())
    for first, mean, last in zip(weights[0::3], weights[1::3], weights[2::3], strict=True):
        assert first.tolist() == [1.0]
        assert set(last.tolist()) == {1.0}
        assert torch.allclose(mean, torch.full_like(mean, 1 / max(1, len(mean))))


def test_resplit_keeps_each_users_rows_and_sizes():
    tasks = make_tasks(np.random.default_rng(3)).table
    again = resample_support_query(tasks, np.random.default_rng(0))
    moved = False
    for u in range(len(tasks)):
        assert sorted(rows_of(tasks, u)) == sorted(rows_of(again, u))
        moved |= rows_of(tasks, u) != rows_of(again, u)
    assert moved
    assert (again.query_item.lengths == tasks.query_item.lengths).all()
    assert (again.support_label.offsets == tasks.support_label.offsets).all()


def rows_of(tasks, u: int) -> list[tuple[int, float]]:
    out = []
    for role in ("support", "query"):
        items, labels = getattr(tasks, f"{role}_item"), getattr(tasks, f"{role}_label")
        here = slice(items.offsets[u], items.offsets[u + 1])
        out += list(zip(items.values[here].tolist(), labels.values[here].tolist(), strict=True))
    return out


def test_hiding_gives_whole_fields_to_the_unknown_row():
    tasks = make_tasks(np.random.default_rng(4), num_users=200)
    feature_mask = FeatureMask(0.5, np.random.default_rng(0))
    users = np.arange(200)
    batch = build_batch(
        tasks.table,
        tasks.items,
        users,
        has_support_gradient=True,
        has_row_norms=True,
        feature_mask=feature_mask,
    )
    unknown = tasks.table.features.unknown
    hidden = np.zeros(2)
    for b in range(200):
        for f, values in enumerate(decode(batch, batch.user_slots, b)):
            if values != sorted(tasks.users[b].user_fields[f]):
                assert values == [unknown[f]]
                hidden[f] += 1
    assert (hidden > 60).all()
    assert (hidden < 140).all()


@pytest.mark.parametrize("length", [1, 3, 99])
@pytest.mark.parametrize("is_random", [False, True])
def test_a_shortened_support_is_a_part_of_the_users_own(length, is_random):
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
