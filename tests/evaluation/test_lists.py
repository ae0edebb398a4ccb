"""Lists of items: recall, hit rate, nDCG, MRR, coverage, novelty, against loops and a library."""

import itertools

import numpy as np
import pytest
import torch
from torchmetrics import retrieval

from greatmeta_dist.evaluation.metrics import measure
from greatmeta_dist.evaluation.metrics.base import PredictedRows
from greatmeta_dist.evaluation.metrics.lists import (
    NO_LIST,
    NO_POSITIVE,
    ListSettings,
    item_information,
    join_lists_of_users,
    lists_of_candidates,
    lists_of_catalogue,
)

CUTOFFS = (1, 3, 5)


def settings_for(num_items, cutoffs=CUTOFFS):
    return ListSettings(cutoffs, 4.0, item_information(np.arange(num_items)))


def random_candidates(rng, *, num_scores, num_users=40, num_items=60):
    """Users' candidates: ratings, scores of which few differ if ``num_scores`` is small, items."""
    lengths = rng.integers(0, 7, num_users)
    rating = rng.integers(1, 6, lengths.sum()).astype(float)
    score = rng.permutation(10 * len(rating))[: len(rating)] % num_scores + 0.0
    item = np.concatenate([rng.choice(num_items, n, replace=False) for n in lengths])
    return PredictedRows(rating, score, lengths, 1.0, False), item


def by_user(rows, *columns):
    """Each user's rows of some columns."""
    starts = np.cumsum(rows.lengths)[:-1]
    return list(zip(*(np.split(column, starts) for column in columns), strict=True))


def of_order(positive, information, k):
    """The numbers of one user's items in one order, by their definitions."""
    first = positive[:k]
    ideal = sum(1 / np.log2(r + 2) for r in range(min(k, positive.sum())))
    gain = sum(1 / np.log2(r + 2) for r in range(len(first)) if first[r])
    return {
        "recall": first.sum() / positive.sum(),
        "hr": float(first.any()),
        "ndcg": gain / ideal,
        "mrr": 1 / (1 + np.argmax(positive)),
        "novelty": information[:k].mean(),
    }


def over_all_orders(positive, score, information, k):
    """The means over all orders of items with the same score."""
    ties = [np.flatnonzero(score == s) for s in np.unique(score)[::-1]]
    orders = itertools.product(*(itertools.permutations(tie) for tie in ties))
    found = []
    for order in orders:
        at = np.concatenate([np.array(part) for part in order])
        found.append(of_order(positive[at], information[at], k))
    return {name: np.mean([f[name] for f in found]) for name in found[0]}


@pytest.mark.parametrize("num_scores", [3, 10**6])
def test_candidates_are_as_by_definition_over_all_orders_of_ties(num_scores):
    rows, item = random_candidates(np.random.default_rng(0), num_scores=num_scores)
    settings = settings_for(60)
    found = lists_of_candidates(rows, item, settings)
    information = settings.information[item]
    users = by_user(rows, rows.rating >= 4, rows.prediction, information)
    for k in CUTOFFS:
        for u, (positive, score, of_items) in enumerate(users):
            is_ranked = 0 < positive.sum() < len(positive)
            for name in ("recall", "hr"):
                assert np.isnan(found.means[f"{name}@{k}"][u]) == (not is_ranked)
            assert np.isnan(found.means["mrr"][u]) == (not is_ranked)
            if not is_ranked:
                continue
            expected = over_all_orders(positive, score, of_items, k)
            for name in ("recall", "hr", "novelty"):
                assert found.means[f"{name}@{k}"][u] == pytest.approx(expected[name])
            assert found.means["mrr"][u] == pytest.approx(expected["mrr"])


@pytest.mark.parametrize("num_scores", [3, 10**6])
def test_the_catalogue_is_as_by_definition_without_known_items(num_scores):
    rng = np.random.default_rng(1)
    num_users, num_items = 25, 8
    score = rng.integers(0, num_scores, (num_users, num_items)).astype(float)
    is_known = rng.random((num_users, num_items)) < 0.3
    is_positive = rng.random((num_users, num_items)) < 0.3
    settings = settings_for(num_items)
    found = lists_of_catalogue(score, is_known, *np.nonzero(is_positive), settings)
    for u, k in itertools.product(range(num_users), CUTOFFS):
        asked = ~is_known[u]
        positive = is_positive[u][asked]
        if not 0 < positive.sum() < len(positive):
            assert np.isnan(found.means["mrr"][u])
            continue
        information = settings.information[:-1][asked]
        expected = over_all_orders(positive, score[u][asked], information, k)
        for name in ("recall", "hr", "ndcg", "novelty"):
            assert found.means[f"{name}@{k}"][u] == pytest.approx(expected[name])
        assert found.means["mrr"][u] == pytest.approx(expected["mrr"])
    lists = found.top[:, :3]
    assert not any(is_known[u, i] for u in range(num_users) for i in lists[u] if i >= 0)
    share = len(set(lists[lists >= 0].tolist())) / num_items
    assert found.summary()["coverage@3"] == share


def test_numbers_agree_with_torchmetrics_where_no_scores_are_tied():
    rows, item = random_candidates(np.random.default_rng(2), num_scores=10**6, num_users=80)
    found = lists_of_candidates(rows, item, settings_for(60))
    is_counted = ~np.isnan(found.means["mrr"])
    # A user without positives is skipped there too; one with positives alone is not.
    is_row = is_counted[rows.user_index]
    arguments = (
        torch.from_numpy(rows.prediction[is_row]),
        torch.from_numpy(rows.rating[is_row] >= 4),
    )
    user = torch.from_numpy(rows.user_index[is_row])
    for k in CUTOFFS:
        for name, kind in (
            ("recall", retrieval.RetrievalRecall),
            ("hr", retrieval.RetrievalHitRate),
        ):
            library = kind(empty_target_action="skip", top_k=k)(*arguments, indexes=user)
            assert found.summary()[f"{name}@{k}"] == pytest.approx(float(library), abs=1e-6)
    library = retrieval.RetrievalMRR(empty_target_action="skip")(*arguments, indexes=user)
    assert found.summary()["mrr"] == pytest.approx(float(library), abs=1e-6)


def test_ndcg_of_candidates_is_that_of_the_metric():
    rows, item = random_candidates(np.random.default_rng(3), num_scores=4)
    found = lists_of_candidates(rows, item, settings_for(60)).summary()
    known = measure(rows.rating, rows.prediction, rows.lengths, lowest=1.0).summary()
    for k in CUTOFFS:
        assert found[f"ndcg@{k}"] == pytest.approx(known[f"ndcg@{k}"], abs=1e-12)


def test_novelty_is_the_information_of_an_items_share_and_a_new_items_is_that_of_one_rating():
    information = item_information(np.array([4, 2, 1, 0, 1]))
    assert information.tolist() == [1.0, 2.0, 3.0, 3.0, 3.0, 3.0]
    score, nothing = np.array([[5.0, 4.0, 3.0, 2.0, 1.0]]), np.empty(0, np.int64)
    settings = ListSettings((1, 3, 9), 4.0, information)
    none_known = np.zeros((1, 5), bool)
    found = lists_of_catalogue(score, none_known, nothing, nothing, settings)
    numbers = found.summary()
    assert [numbers[f"novelty@{k}"] for k in (1, 3, 9)] == pytest.approx([1.0, 2.0, 12 / 5])
    assert [numbers[f"coverage@{k}"] for k in (1, 3, 9)] == [0.2, 0.6, 1.0]
    assert np.isnan(numbers["mrr"])


def test_users_without_a_list_or_a_positive_are_left_out_counted_and_said():
    lengths = np.array([3, 0, 2, 2])
    rating = np.array([5.0, 1.0, 1.0, 5.0, 4.0, 1.0, 2.0])
    rows = PredictedRows(rating, np.arange(7.0), lengths, 1.0, False)
    found = lists_of_candidates(rows, np.arange(7), settings_for(7))
    counted = found.counted()
    assert (counted["recall@3"], counted["mrr"], counted["hr@1"]) == (1, 1, 1)
    assert (counted["novelty@3"], counted["coverage@3"]) == (3, 3)
    assert counted["ndcg@3"] == 3
    assert found.left_out("recall@3") == found.left_out("mrr") == NO_POSITIVE
    assert found.left_out("coverage@3") == NO_LIST
    nobody = found.summary(np.array([False, True, False, False]))
    assert all(np.isnan(value) for value in nobody.values())
    assert set(found.counted(np.array([False, True, False, False])).values()) == {0}


def test_batches_of_users_joined_are_those_users_at_once():
    rows, item = random_candidates(np.random.default_rng(4), num_scores=3)
    settings = settings_for(60)
    whole = lists_of_candidates(rows, item, settings)
    stop = rows.lengths[:15].sum()
    parts = [
        PredictedRows(rows.rating[a], rows.prediction[a], rows.lengths[b], 1.0, False)
        for a, b in ((slice(stop), slice(15)), (slice(stop, None), slice(15, None)))
    ]
    items = (item[:stop], item[stop:])
    lists = [lists_of_candidates(p, i, settings) for p, i in zip(parts, items, strict=True)]
    joined = join_lists_of_users(lists)
    assert joined.summary() == pytest.approx(whole.summary(), nan_ok=True)
    assert joined.counted() == whole.counted()


def test_clicks_are_positive_whatever_the_threshold():
    rows = PredictedRows(np.array([1.0, 0.0]), np.array([0.2, 0.1]), np.array([2]), 0.0, True)
    assert lists_of_candidates(rows, np.arange(2), settings_for(2)).summary()["mrr"] == 1
