"""Of rows with the same score every order is as likely: numbers are the means over all orders."""

from itertools import pairwise, permutations

import numpy as np
import pytest

from greatmeta_dist.evaluation.metrics import CUTOFFS, chance_ndcg, ranking
from greatmeta_dist.evaluation.metrics.ndcg import ndcg

NUM_ROWS = 6


def orders(score: np.ndarray) -> list[list[int]]:
    """Every order of the rows, best first, in which no row stands before a better one."""
    return [
        list(order)
        for order in permutations(range(len(score)))
        if all(score[a] >= score[b] for a, b in pairwise(order))
    ]


def dcg(gains: np.ndarray, k: int) -> float:
    return float(sum(gain / np.log2(rank + 2) for rank, gain in enumerate(gains[:k])))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ndcg_is_the_mean_over_all_orders_of_the_tied(levels):
    rng = np.random.default_rng(levels)
    for _ in range(5):
        gain = rng.integers(0, 4, NUM_ROWS).astype(float)
        gain[0] = 2.0
        score = rng.integers(0, levels, NUM_ROWS).astype(float)
        found = ndcg(gain, score, np.array([NUM_ROWS]))[0]
        for value, k in zip(found, CUTOFFS, strict=True):
            ideal = dcg(np.sort(gain)[::-1], k)
            drawn = [dcg(gain[order], k) / ideal for order in orders(score)]
            assert value == pytest.approx(np.mean(drawn), abs=1e-12)
        if levels == 1:
            assert np.array_equal(found, chance_ndcg(gain, np.array([NUM_ROWS]))[0])


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ranks_in_the_catalogue_are_the_means_over_all_orders_of_the_tied(levels):
    rng = np.random.default_rng(levels)
    for num_clicks in (1, 2, 3):
        score = rng.integers(0, levels, (1, NUM_ROWS + 2)).astype(float)
        is_known = np.zeros((1, NUM_ROWS + 2), bool)
        is_known[0, [1, 4]] = True
        unknown = np.flatnonzero(~is_known[0])
        clicked = np.sort(rng.choice(unknown, num_clicks, replace=False))
        found = ranking(score, is_known, np.zeros(num_clicks, int), clicked)
        is_click = np.isin(unknown, clicked).astype(float)
        hits = [is_click[order] for order in orders(score[0, unknown])]
        for k in CUTOFFS:
            ideal = dcg(np.ones(num_clicks), k)
            assert found[f"hr@{k}"][0] == pytest.approx(np.mean([h[:k].any() for h in hits]))
            expected = np.mean([dcg(h, k) / ideal for h in hits])
            assert found[f"ndcg@{k}"][0] == pytest.approx(expected, abs=1e-12)


def test_users_do_not_change_each_others_ranks():
    rng = np.random.default_rng(7)
    score = rng.integers(0, 4, (5, 30)).astype(float)
    is_known = rng.random((5, 30)) < 0.2
    user, item = np.nonzero((rng.random((5, 30)) < 0.2) & ~is_known)
    together = ranking(score, is_known, user, item)
    for u in range(5):
        of_user = user == u
        alone = ranking(score[[u]], is_known[[u]], user[of_user] * 0, item[of_user])
        for name, values in together.items():
            assert values[u] == alone[name][0]


def test_a_click_on_a_known_item_is_not_asked_for():
    score, is_known = np.arange(12.0)[None], np.zeros((1, 12), bool)
    is_known[0, 11] = True
    found = ranking(score, is_known, np.array([0, 0]), np.array([3, 11]))
    alone = ranking(score, is_known, np.array([0]), np.array([3]))
    assert found == alone
    assert found["hr@5"][0] == 0
    assert np.isnan(ranking(score, is_known, np.array([0]), np.array([11]))["hr@1"][0])
