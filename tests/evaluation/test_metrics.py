"""Metrics all_true with scikit-learn, user by user."""

import numpy as np
import pytest
from sklearn.metrics import (
    mean_absolute_error,
    ndcg_score,
    roc_auc_score,
    root_mean_squared_error,
)

from greatmeta_dist.evaluation.metrics import CUTOFFS, chance_ndcg, measure, ndcg, ranking


def random_rows(seed: int, *, levels: int):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 15, 30)
    rating = rng.integers(1, 6, lengths.sum()).astype(float)
    score = rng.integers(0, levels, lengths.sum()).astype(float)
    return rating, score, lengths


@pytest.mark.parametrize("levels", [2, 4, 10**6])
def test_ndcg_equals_scikit_learn_with_and_without_ties(levels):
    rating, score, lengths = random_rows(levels, levels=levels)
    found = ndcg(rating, score, lengths)
    stops = np.cumsum(lengths)
    for u, (start, stop) in enumerate(zip(stops - lengths, stops, strict=True)):
        for c, k in enumerate(CUTOFFS):
            expected = ndcg_score([rating[start:stop]], [score[start:stop]], k=k)
            assert found[u, c] == pytest.approx(expected, abs=1e-12)


def test_chance_is_the_mean_over_random_orders():
    rating, _, lengths = random_rows(1, levels=2)
    rng = np.random.default_rng(0)
    drawn = np.mean([ndcg(rating, rng.random(len(rating)), lengths) for _ in range(3000)], axis=0)
    np.testing.assert_allclose(chance_ndcg(rating, lengths), drawn, atol=0.02)


def test_errors_equal_scikit_learn_over_all_and_over_a_group():
    rating, score, lengths = random_rows(2, levels=6)
    found = measure(rating, score, lengths, lowest=1.0)
    assert found.summary()["mae"] == pytest.approx(mean_absolute_error(rating, score))
    assert found.summary()["rmse"] == pytest.approx(root_mean_squared_error(rating, score))
    chosen = np.arange(len(lengths)) % 3 == 0
    rows = np.repeat(chosen, lengths)
    expected = root_mean_squared_error(rating[rows], score[rows])
    assert found.summary(chosen)["rmse"] == pytest.approx(expected)


def test_a_user_without_query_rows_counts_in_nothing():
    rating, score = np.array([1.0, 5.0]), np.array([2.0, 4.0])
    found = measure(rating, score, np.array([0, 2, 0]), lowest=1.0).summary()
    assert found["mae"] == 1.0
    assert found["ndcg@1"] == 1.0


def test_ratings_below_zero_still_give_gains():
    rating, score = np.array([-2.0, -1.0]), np.array([0.0, 1.0])
    assert measure(rating, score, np.array([2]), lowest=-2.0).summary()["ndcg@1"] == 1.0


def test_auc_is_scikit_learns_user_by_user():
    rng = np.random.default_rng(0)
    lengths = np.array([5, 1, 0, 12, 30, 4])
    click = (rng.random(lengths.sum()) < 0.4).astype(float)
    score = rng.integers(0, 6, lengths.sum()) / 5.0
    click[-4:] = 1.0  # one class only
    found = measure(click, score, lengths, lowest=0.0, is_click=True)
    ends = np.cumsum(lengths)
    for user, (a, b) in enumerate(zip(ends - lengths, ends, strict=True)):
        if len(set(click[a:b])) < 2:
            assert np.isnan(found.auc[user])
        else:
            assert found.auc[user] == pytest.approx(roc_auc_score(click[a:b], score[a:b]))
    assert found.summary()["auc"] == pytest.approx(np.nanmean(found.auc))
    assert "auc" not in measure(click, score, lengths, lowest=0.0).summary()


def test_ranking_in_the_catalogue_is_what_a_sort_gives():
    rng = np.random.default_rng(1)
    score = rng.permutation(6 * 40).reshape(6, 40).astype(float)
    is_known = rng.random((6, 40)) < 0.2
    is_clicked = (rng.random((6, 40)) < 0.1) & ~is_known
    is_clicked[3] = False
    found = ranking(score, is_known, *np.nonzero(is_clicked))
    for user in range(6):
        order = [i for i in np.argsort(-score[user]) if not is_known[user, i]]
        hits = np.array([is_clicked[user, i] for i in order], float)
        for k in CUTOFFS:
            if not is_clicked[user].any():
                assert np.isnan(found[f"hr@{k}"][user])
                continue
            discount = 1 / np.log2(np.arange(k) + 2)
            ideal = discount[: int(hits.sum())].sum()
            assert found[f"hr@{k}"][user] == float(hits[:k].any())
            assert found[f"ndcg@{k}"][user] == pytest.approx((hits[:k] * discount).sum() / ideal)
    tied = ranking(np.zeros((1, 40)), np.zeros((1, 40), bool), np.array([0]), np.array([7]))
    assert tied["hr@10"][0] == 0.0  # among equals it stands in the middle
