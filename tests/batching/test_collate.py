"""Batches hold exactly the tasks they were built from."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from fitted import collator_of, transform_of
from random_tasks import make_tasks
from stores import CHOICE

from greatmeta_dist.batching.collate import CLICK_CONTEXT_SCALE, build_batch
from greatmeta_dist.data.tasks import FeatureMask, TaskTable
from greatmeta_dist.ragged import Ragged


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
        for which, rows in (("support", batch.supports[0].rows), ("query", batch.query)):
            expected = getattr(user, which)
            assert int((rows.row_weight[b] > 0).sum()) == len(expected)
            decoded = [
                decode(batch, batch.item_slots, int(rows.item[b, r])) for r in range(len(expected))
            ]
            assert decoded == [[sorted(f) for f in row] for row in expected]
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


def test_masking_gives_whole_fields_to_the_unknown_row():
    tasks = make_tasks(np.random.default_rng(4), num_users=200)
    feature_mask = FeatureMask(0.5, np.random.default_rng(0))
    users = np.arange(200)
    batch = build_batch(
        tasks.table,
        tasks.items,
        users,
        has_support_gradient=True,
        has_row_norms=True,
        feature_masks=[feature_mask],
    )
    unknown = tasks.table.features.unknown
    masked = np.zeros(2)
    for b in range(200):
        for f, values in enumerate(decode(batch, batch.user_slots, b)):
            if values != sorted(tasks.users[b].user_fields[f]):
                assert values == [unknown[f]]
                masked[f] += 1
    assert (masked > 60).all()
    assert (masked < 140).all()


@pytest.mark.parametrize("damping", [0.0, 3.0])
def test_rows_weigh_as_a_damped_mean_and_padding_nothing(damping):
    tasks = make_tasks(np.random.default_rng(1))
    batch = build_batch(
        tasks.table,
        tasks.items,
        np.arange(7),
        has_support_gradient=True,
        has_row_norms=False,
        support_damping=damping,
    )
    for rows, damped in ((batch.supports[0].rows, damping), (batch.query, 0.0)):
        count = (rows.row_weight > 0).sum(1)
        expected = count / (count.clamp(min=1) + damped)
        assert torch.allclose(rows.row_weight.sum(1), expected.float())
        assert (rows.label[rows.row_weight == 0] == 0).all()
    assert batch.pairs is None


def test_rows_are_listed_by_item_and_in_order():
    tasks = make_tasks(np.random.default_rng(2))
    batch = build_batch(
        tasks.table, tasks.items, np.arange(7), has_support_gradient=True, has_row_norms=False
    )
    sets = (batch.supports[0].rows, batch.support_plan), (batch.query, batch.query_plan)
    for rows, plan in sets:
        is_row = (rows.row_weight > 0).flatten()
        item = rows.item.flatten()
        ends = [*plan.start.tolist(), len(plan.position)]
        for number, (first, last) in enumerate(itertools.pairwise(ends)):
            expected = (is_row & (item == number)).nonzero().flatten()
            assert torch.equal(plan.position[first:last], expected)
            assert torch.equal(plan.user[first:last], expected // rows.item.shape[1])


def test_clicks_tell_the_context_what_was_not_expected_of_them():
    tasks = make_tasks(np.random.default_rng(5), is_click=True, has_logits=True)
    batch = build_batch(
        tasks.table, tasks.items, np.arange(7), has_support_gradient=True, has_row_norms=False
    )
    for rows, role in ((batch.supports[0].rows, "support"), (batch.query, "query")):
        for b, user in enumerate(tasks.users):
            label, logit = (
                torch.tensor(getattr(user, f"{role}_{name}")) for name in ("label", "logit")
            )
            expected = CLICK_CONTEXT_SCALE * (label - torch.sigmoid(logit))
            assert rows.context_label[b, : len(label)].tolist() == pytest.approx(
                expected.tolist(), abs=1e-6
            )


def test_a_batch_of_a_user_without_rows_can_be_built():
    tasks = make_tasks(np.random.default_rng(0))
    empty = Ragged(np.empty(0, np.int64), np.zeros(8, np.int64))
    nothing = TaskTable(tasks.table.features, empty, empty, empty, empty)
    batch = build_batch(
        nothing, tasks.items, np.arange(2), has_support_gradient=True, has_row_norms=True
    )
    assert batch.supports[0].rows.row_weight.shape == (2, 1)
    assert not batch.supports[0].rows.row_weight.any()


def test_training_users_count_as_their_groups_do(store, priors):
    transform = transform_of(store, priors)
    users = store.split("train", CHOICE)
    group = (np.arange(len(users)) % 3).astype(np.int32)
    weights = np.array([0.5, 1.0, 2.0])
    chosen = np.array([4, 0, 2])
    collator = replace(collator_of(store, transform), target_weights=weights)
    batch = collator.collate(
        users.tasks, chosen, is_training=True, group=group, user_index=np.arange(len(users)) + 7
    )
    assert batch.target_weight.tolist() == weights[[1, 0, 2]].tolist()
    assert batch.user_index.tolist() == [11, 7, 9]
    plain = collator.collate(users.tasks, chosen)
    assert plain.target_weight.tolist() == [1.0, 1.0, 1.0]
    assert plain.user_index is None
