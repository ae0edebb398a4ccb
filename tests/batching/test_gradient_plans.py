"""Plans list every slot once, where a loop over users, rows and fields finds it."""

import itertools
from collections import defaultdict

import numpy as np
import pytest
from random_tasks import make_tasks

from greatmeta_dist.batching.collate import build_batch

FIELDS = 2, 3
"""Fields of users and of items."""


def make_batch(seed: int, *, has_support_gradient: bool):
    tasks = make_tasks(np.random.default_rng(seed))
    chosen = np.random.default_rng(seed).permutation(7)[:5]
    return build_batch(
        tasks.table,
        tasks.items,
        chosen,
        has_support_gradient=has_support_gradient,
        has_row_norms=True,
        dtype=np.float64,
    )


def slots_of(slots, entity: int, field: int) -> list[tuple[int, float]]:
    """Embedding row and pooling weight of each slot of one field of one entity."""
    starts = [*slots.start.flatten().tolist(), len(slots.row)]
    cell = entity * slots.start.shape[1] + field
    some = slice(starts[cell], starts[cell + 1])
    return list(zip(slots.row[some].tolist(), slots.weight[some].tolist(), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_gradients_of_pooled_features_reach_their_embedding_rows(seed):
    batch = make_batch(seed, has_support_gradient=True)
    expected = defaultdict(list)
    first_atom = 0
    for slots, num_fields in zip((batch.user_slots, batch.item_slots), FIELDS, strict=True):
        num_entities = slots.start.shape[0]
        for entity, field in itertools.product(range(num_entities), range(num_fields)):
            for row, weight in slots_of(slots, entity, field):
                expected[row].append((first_atom + entity * num_fields + field, weight))
        first_atom += num_entities * num_fields
    plan = batch.unpool
    starts = [*plan.row_start.tolist(), len(plan.atom)]
    assert len(plan.row_start) == len(batch.rows) == len(expected)
    for row, (first, last) in enumerate(itertools.pairwise(starts)):
        listed = zip(plan.atom[first:last].tolist(), plan.weight[first:last].tolist(), strict=True)
        assert list(listed) == expected[row]


@pytest.mark.parametrize("has_support_gradient", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_pair_is_all_that_one_user_sends_to_one_embedding_row(seed, has_support_gradient):
    batch = make_batch(seed, has_support_gradient=has_support_gradient)
    (num_users, of_user), of_item = batch.user_slots.start.shape, FIELDS[1]
    expected = defaultdict(list)
    for user, field in itertools.product(range(num_users), range(of_user)):
        for row, weight in slots_of(batch.user_slots, user, field):
            expected[user, field, row].append((user * of_user + field, weight))
    first_atom = num_users * of_user
    for rows in [batch.query, batch.supports[0].rows] if has_support_gradient else [batch.query]:
        longest = rows.item.shape[1]
        for user, r in (rows.row_weight > 0).nonzero().tolist():
            for field in range(of_item):
                for row, weight in slots_of(batch.item_slots, int(rows.item[user, r]), field):
                    atom = first_atom + (user * longest + r) * of_item + field
                    expected[user, of_user + field, row].append((atom, weight))
        first_atom += rows.item.numel() * of_item

    plan = batch.pairs
    starts = [*plan.pair_start.tolist(), len(plan.atom)]
    for key, (first, last) in zip(sorted(expected), itertools.pairwise(starts), strict=True):
        listed = zip(plan.atom[first:last].tolist(), plan.weight[first:last].tolist(), strict=True)
        assert list(listed) == expected[key]
    cells = itertools.product(range(num_users), range(of_user + of_item))
    counts = [sum(key[:2] == cell for key in expected) for cell in cells]
    assert plan.field_start.tolist() == np.cumsum([0, *counts]).tolist()
