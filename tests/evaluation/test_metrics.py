"""Metrics agree with scikit-learn, user by user, and a user's package adds one."""

import io

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import (
    mean_absolute_error,
    ndcg_score,
    roc_auc_score,
    root_mean_squared_error,
)

from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError
from greatmeta_dist.evaluation.metrics import (
    CUTOFFS,
    chance_ndcg,
    join,
    measure,
    ranking,
    registered_metrics,
)
from greatmeta_dist.evaluation.metrics.ndcg import ndcg


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
    auc = found.columns["auc"]["auc"]
    ends = np.cumsum(lengths)
    for user, (a, b) in enumerate(zip(ends - lengths, ends, strict=True)):
        if len(set(click[a:b])) < 2:
            assert np.isnan(auc[user])
        else:
            assert auc[user] == pytest.approx(roc_auc_score(click[a:b], score[a:b]))
    assert found.summary()["auc"] == pytest.approx(np.nanmean(auc))
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
    assert tied["hr@10"][0] == pytest.approx(10 / 40)  # any place among equals is as likely


def test_numbers_have_these_names_in_this_order():
    ratings = ["mae", "rmse", "ndcg@1", "ndcg@3", "ndcg@5", "ndcg@10"]
    click, score, lengths = np.array([1.0, 0.0]), np.array([0.7, 0.2]), np.array([2])
    assert list(measure(click, score, lengths, lowest=0.0).summary()) == ratings
    clicks = measure(click, score, lengths, lowest=0.0, is_click=True).summary()
    assert list(clicks) == [*ratings, "auc"]


def test_joined_batches_give_the_numbers_of_all_users_at_once():
    rating, score, lengths = random_rows(3, levels=6)
    whole = measure(rating, score, lengths, lowest=1.0)
    num_first = lengths[:11].sum()
    batches = [
        measure(rating[:num_first], score[:num_first], lengths[:11], lowest=1.0),
        measure(rating[num_first:], score[num_first:], lengths[11:], lowest=1.0),
    ]
    assert join(batches).summary() == whole.summary()


def test_users_without_any_query_rows_have_no_ndcg_and_no_auc():
    none = measure(np.empty(0), np.empty(0), np.zeros(3, int), lowest=0.0, is_click=True).summary()
    assert np.isnan(none["ndcg@5"])
    assert "auc" not in none


PACKAGE = '''
import numpy as np

from greatmeta_dist.evaluation.metrics import Columns, Metric, PredictedRows


class ReciprocalRank(Metric):
    """1 over the rank of the user's best rated row."""

    is_higher_better = True
    decimals = 4

    def by_user(self, rows: PredictedRows) -> Columns:
        stops = np.cumsum(rows.lengths)
        value = np.full(len(stops), np.nan)
        for user, (start, stop) in enumerate(zip(stops - rows.lengths, stops, strict=True)):
            if stop > start:
                prediction = rows.prediction[start:stop]
                best = prediction[np.argmax(rows.rating[start:stop])]
                value[user] = 1 / (1 + (prediction > best).sum())
        return {NUMBER: value}
'''


@pytest.fixture
def add_package(tmp_path, monkeypatch):
    """Install a package with one metric, ``mrr``, whose number has the name that is passed."""

    def add(number: str) -> None:
        module = f"reciprocal_rank_{tmp_path.name}"
        (tmp_path / f"{module}.py").write_text(f"NUMBER = {number!r}\n{PACKAGE}")
        info = tmp_path / "reciprocal_rank-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Name: reciprocal-rank\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[greatmeta_dist.metrics]\nmrr = {module}:ReciprocalRank\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        registered_metrics.cache_clear()

    yield add
    registered_metrics.cache_clear()


def test_a_users_package_adds_a_metric_by_one_file_and_one_entry_point(add_package):
    add_package("mrr")
    rating, lengths = np.array([5.0, 1.0, 2.0, 4.0, 3.0]), np.array([3, 0, 2])
    score = np.array([2.0, 1.0, 3.0, 4.0, 3.0])
    metrics = measure(rating, score, lengths, lowest=1.0)
    assert list(metrics.summary()) == [
        "mae", "rmse", "ndcg@1", "ndcg@3", "ndcg@5", "ndcg@10", "mrr",
    ]  # fmt: skip
    assert metrics.summary()["mrr"] == 0.75
    assert join([metrics, metrics]).summary(np.arange(6) == 3)["mrr"] == 0.5

    out = io.StringIO()
    models = {"unadapted": {**metrics.summary(), "mrr": 0.25}, "adapted": metrics.summary()}
    scenario = {"users": 3, "models": models, "chance": {}, "groups": {"by_group": {}}}
    evaluation = {"scenarios": {"user_cold": scenario}, "notes": {}}
    Display(Console(file=out, width=100)).results(evaluation)
    heading, *rows = (line.split() for line in out.getvalue().splitlines() if line.strip())
    assert heading[-1] == "mrr"
    assert [row[-1] for row in rows if row[0] in models] == ["0.2500", "0.7500"]


def test_a_metric_whose_number_has_another_name_is_refused(add_package):
    add_package("rmse")
    metrics = measure(np.array([5.0]), np.array([2.0]), np.array([1]), lowest=1.0)
    with pytest.raises(InputError, match=r"metric 'mrr' gave a number called 'rmse'; call it"):
        metrics.summary()
