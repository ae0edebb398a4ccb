"""Metrics agree with scikit-learn, user by user."""

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, ndcg_score, root_mean_squared_error

from greatmeta_dist.metrics import CUTOFFS, chance_ndcg, measure, ndcg


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
