"""The paired test of two runs over users."""

import numpy as np
import pytest
from scipy import stats

from greatmeta_dist.evaluation.paired import paired_test


def test_it_is_wilcoxons_test_with_students_interval_of_the_mean_difference():
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(60), rng.random(60)
    theirs[:5] = ours[:5]
    found = paired_test(ours, theirs)
    difference = ours - theirs
    assert found["p_value"] == stats.wilcoxon(difference[5:]).pvalue
    interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found["interval"] == pytest.approx([interval.low, interval.high])
    assert found["difference"] == pytest.approx(difference.mean())
    assert (found["users"], found["differ"]) == (60, 55)
    assert found["ours"] - found["theirs"] == pytest.approx(found["difference"])
    other_way = paired_test(theirs, ours)
    assert other_way["p_value"] == pytest.approx(found["p_value"])
    assert other_way["difference"] == -found["difference"]


def test_users_who_lack_either_value_are_left_out():
    ours = np.array([1.0, np.nan, 3.0, 4.0, 5.0])
    theirs = np.array([0.0, 2.0, np.nan, 3.0, 3.0])
    found = paired_test(ours, theirs)
    assert (found["users"], found["differ"]) == (3, 3)
    assert found["difference"] == pytest.approx(4 / 3)


@pytest.mark.parametrize("num_users", [0, 1, 2, 5])
def test_runs_without_a_difference_have_no_p_value(num_users):
    found = paired_test(np.ones(num_users), np.ones(num_users))
    assert (found["users"], found["differ"], found["p_value"]) == (num_users, 0, None)
    assert found["interval"] == ([0.0, 0.0] if num_users > 1 else [None, None])
    assert found["difference"] == (0.0 if num_users else None)


def test_a_clear_difference_is_found_and_none_is_not():
    rng = np.random.default_rng(1)
    theirs = rng.random(200)
    better = paired_test(theirs - 0.1 + 0.05 * rng.normal(size=200), theirs)
    assert better["p_value"] < 1e-6
    assert better["interval"][1] < 0
    same = paired_test(theirs + 0.05 * rng.normal(size=200), theirs)
    assert same["p_value"] > 0.01
    assert same["interval"][0] < 0 < same["interval"][1]
