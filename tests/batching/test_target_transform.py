"""Ratings become targets and come back, and a target holds nothing of its own rating."""

from dataclasses import replace

import numpy as np
import pytest
from fitted import transform_of
from scipy.special import logit
from stores import CHOICE

from greatmeta_dist.batching.target_transform import LEAST_CHANCE
from greatmeta_dist.evaluation.baselines import ITEM_DAMPING, USER_DAMPING, Baselines
from greatmeta_dist.priors.bayesian_mf import BayesianMFPrior


@pytest.mark.parametrize("kind", ["rating", "standardised", "bias"])
def test_targets_round_trip_within_the_range(store, priors, kind):
    transform = transform_of(store, priors, kind)
    tasks = store.split("user_cold", CHOICE).tasks
    _, prior_mean = transform.prior_means(tasks, is_training=False)
    target = (tasks.query_label.values - prior_mean) / transform.scale
    assert transform.to_rating(tasks)(target) == pytest.approx(tasks.query_label.values, abs=1e-5)
    ends = transform.to_rating(tasks)(np.full(len(target), 1e3))
    assert (ends == store.manifest.ratings.highest).all()
    applied = transform.apply(tasks, is_training=False)
    assert applied.query_label.values == pytest.approx(target, abs=1e-6)
    assert applied.query_label.values.dtype == np.float32
    assert transform.scale == (1.0 if kind == "rating" else store.manifest.ratings.deviation)


@pytest.mark.parametrize("item_damping, user_damping", [(5.0, 3.0), (2.5, 8.0)])
def test_a_bias_target_takes_off_mean_item_and_user_offset(
    store, priors, item_damping, user_damping
):
    tasks = store.split("user_cold", CHOICE).tasks
    mean = store.manifest.ratings.mean
    rows = store.training_rows()
    count, total = rows.item_count, rows.item_sum
    offset = (total - mean * count) / (count + item_damping)
    expected = []
    for user in range(len(tasks)):
        support = slice(*tasks.support_item.offsets[user : user + 2])
        item, rating = tasks.support_item.values[support], tasks.support_label.values[support]
        residual = sum(r - mean - offset[i] for i, r in zip(item, rating, strict=True))
        of_user = residual / (len(item) + user_damping)
        query = tasks.query_item.values[slice(*tasks.query_item.offsets[user : user + 2])]
        expected += [mean + offset[i] + of_user for i in query]
    estimated = transform_of(store, priors)
    assert estimated.bias.content_mean == pytest.approx(mean)  # no item features
    damped = replace(estimated.bias, item_damping=item_damping, user_damping=user_damping)
    _, prior_mean = replace(estimated, bias=damped).prior_means(tasks, is_training=False)
    assert prior_mean == pytest.approx(np.array(expected))
    if (item_damping, user_damping) != (ITEM_DAMPING, USER_DAMPING):
        return
    low, high = store.manifest.ratings.lowest, store.manifest.ratings.highest
    baselines = Baselines.of(estimated, BayesianMFPrior([]))
    assert baselines.predict(tasks)["bias"] == pytest.approx(np.clip(expected, low, high))


def test_a_training_users_own_rating_is_not_in_its_items_mean(store, priors):
    tasks = store.split("train", CHOICE).tasks
    item, rating = tasks.query_item.values[:1], tasks.query_label.values[:1].astype(float)
    # A damping that leaves item means something to tell.
    with_it = replace(priors["bias"].model, item_damping=5.0)
    count, total = with_it.item_count.copy(), with_it.item_sum.copy()
    count[item] -= 1
    total[item] -= rating
    without = replace(with_it, item_count=count, item_sum=total)
    assert with_it.item_means(item, without=rating) == pytest.approx(without.item_means(item))
    assert with_it.item_means(item) != pytest.approx(without.item_means(item))

    transform = replace(transform_of(store, priors), bias=with_it)
    changed = tasks.query_label.values.copy()
    changed[0] += 1
    moved = replace(tasks, query_label=replace(tasks.query_label, values=changed))
    # Were the rating one higher, in the sums too: its target is one higher, and not a bit less.
    more = total.copy()
    more[item] += rating + 1
    other = replace(transform, bias=replace(with_it, item_sum=more))
    one = transform.apply(tasks, is_training=True).query_label.values[0]
    two = other.apply(moved, is_training=True).query_label.values[0]
    assert two - one == pytest.approx(1 / transform.scale, rel=1e-5)


def test_clicks_keep_their_labels_and_carry_the_prior_as_a_logit(store, priors):
    tasks = store.split("user_cold", CHOICE).tasks
    ratings = replace(store.manifest.ratings, lowest=0.0, highest=1.0, mean=0.3)
    for kind, chance in (("rating", 0.5), ("standardised", 0.3)):
        transform = replace(transform_of(store, priors, kind), ratings=ratings, is_click=True)
        applied = transform.apply(tasks, is_training=False)
        assert applied.query_label is tasks.query_label
        assert transform.scale == 1.0
        for logits in (applied.support_logit, applied.query_logit):
            assert logits == pytest.approx(np.full(len(logits), logit(chance)))
        nothing_added = transform.to_rating(tasks)(np.zeros(len(applied.query_logit)))
        assert nothing_added == pytest.approx(np.full(len(nothing_added), chance))
    rare = replace(transform, ratings=replace(ratings, mean=0.0))
    least = rare.apply(tasks, is_training=False).query_logit
    assert least == pytest.approx(np.full(len(least), logit(LEAST_CHANCE)))
