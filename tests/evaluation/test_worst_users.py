"""The worst tenth of users, by metric."""

import numpy as np
import pytest

from greatmeta_dist.evaluation.metrics import measure
from greatmeta_dist.evaluation.worst_users import is_worst, num_worst, worst_summary


@pytest.mark.parametrize(
    ("num_users", "num"), [(0, 0), (1, 1), (10, 1), (11, 2), (30, 3), (70, 7), (100, 10), (101, 11)]
)
def test_a_tenth_is_rounded_up(num_users, num):
    assert num_worst(num_users) == num


def test_the_worst_are_the_lowest_or_the_highest_and_never_those_without_a_value():
    values = np.array([np.nan, 3.0, 1.0, 2.0, 3.0, *[2.0] * 10])
    assert np.flatnonzero(is_worst(values, is_higher_better=False)).tolist() == [1, 4]
    assert np.flatnonzero(is_worst(values, is_higher_better=True)).tolist() == [2, 3]
    assert not is_worst(np.full(3, np.nan), is_higher_better=True).any()


def test_each_number_is_of_the_users_for_whom_it_is_worst():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 8, 45)
    rating = rng.integers(1, 6, lengths.sum()).astype(float)
    prediction = rating + rng.normal(size=len(rating)) * np.repeat(rng.random(45), lengths)
    metrics = measure(rating, prediction, lengths, lowest=1.0)
    found = worst_summary(metrics)
    assert list(found) == list(metrics.summary())
    errors = np.split((prediction - rating) ** 2, np.cumsum(lengths)[:-1])
    errors = sorted((e for e in errors if len(e)), key=lambda e: -e.mean())
    worst = errors[: -(-len(errors) // 10)]
    assert found["rmse"] == pytest.approx(np.concatenate(worst).mean() ** 0.5)
    ndcg = metrics.columns["ndcg"]["ndcg"][:, 2]
    ndcg = np.sort(ndcg[~np.isnan(ndcg)])
    assert found["ndcg@5"] == pytest.approx(ndcg[: -(-len(ndcg) // 10)].mean())
    assert found["rmse"] > metrics.summary()["rmse"]


def test_without_a_user_who_counts_the_worst_tenth_is_undefined():
    found = worst_summary(measure(np.empty(0), np.empty(0), np.zeros(3, int), lowest=1.0))
    assert all(np.isnan(value) for value in found.values())
    assert list(found)[:2] == ["mae", "rmse"]
