"""Users with nothing to rank are left out and counted, and results are strict JSON."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from logs import csv_config, write_log
from small_training import small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from greatmeta_dist.cli import main
from greatmeta_dist.commands.evaluate import evaluate_run
from greatmeta_dist.config import DataConfig, InnerConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.evaluation.metrics import chance_of, measure
from greatmeta_dist.evaluation.metrics.base import PredictedRows
from greatmeta_dist.files import write_json_atomically
from greatmeta_dist.training.loop import train

NOTHING = {
    "no row": [],
    "one row": [5.0],
    "one rating": [3.0, 3.0, 3.0],
    "the lowest rating": [1.0, 1.0],
}
"""Query rows of users with nothing to rank."""


def strict_json(path: Path):
    """Parsed as JSON alone has it: without nan and infinity."""

    def refuse(constant: str):
        raise AssertionError(f"{path} holds {constant}")

    return json.loads(path.read_text(), parse_constant=refuse)


def rows_of_users(users: list[list[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rating = np.array([value for rows in users for value in rows])
    prediction = np.random.default_rng(0).random(len(rating))
    return rating, prediction, np.array([len(rows) for rows in users])


@pytest.mark.parametrize("rows", NOTHING.values(), ids=NOTHING.keys())
def test_a_user_with_nothing_to_rank_is_left_out_of_ndcg_and_chance(rows):
    ranked = [[1.0, 4.0, 2.0], [5.0, 1.0]]
    rating, prediction, lengths = rows_of_users([*ranked, rows])
    found = measure(rating, prediction, lengths, lowest=1.0)
    num_rows = len(rating) - len(rows)
    alone = measure(rating[:num_rows], prediction[:num_rows], lengths[:2], lowest=1.0)
    for name in ("ndcg@1", "ndcg@3", "ndcg@5", "ndcg@10"):
        assert found.summary()[name] == alone.summary()[name]
        assert found.counted()[name] == 2
    assert found.counted()["rmse"] == 2 + bool(rows)
    chance = chance_of(PredictedRows(rating, prediction, lengths, 1.0, False))
    assert list(np.isnan(chance[:, 0])) == [False, False, True]
    of_nobody = found.summary(np.array([False, False, True]))
    assert np.isnan(of_nobody["ndcg@5"])
    assert np.isnan(of_nobody["rmse"]) == (not rows)


@pytest.mark.parametrize("rows", [[0.0, 0.0], [1.0, 1.0], [1.0], []])
def test_ndcg_and_auc_of_clicks_leave_out_the_same_users(rows):
    rating, prediction, lengths = rows_of_users([[1.0, 0.0, 0.0], rows])
    counted = measure(rating, prediction, lengths, lowest=0.0, is_click=True).counted()
    assert counted == {
        "mae": 1 + bool(rows),
        "rmse": 1 + bool(rows),
        **{f"ndcg@{k}": 1 for k in (1, 3, 5, 10)},
        "auc": 1,
    }


def test_the_lowest_rating_is_worth_one_whatever_it_is():
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 9, 20)
    rating = rng.integers(1, 6, lengths.sum()).astype(float)
    prediction = rng.integers(0, 5, len(rating)).astype(float)
    stars = measure(rating, prediction, lengths, lowest=1.0)
    for shift in (-1.0, -4.0, 99.0):
        shifted = measure(rating + shift, prediction + shift, lengths, lowest=1.0 + shift)
        assert shifted.summary() == stars.summary()
        assert shifted.counted() == stars.counted()
    assert list(PredictedRows(rating, prediction, lengths, 1.0, False).gain) == list(rating)


def prepared(folder: Path, *, shift: int) -> Path:
    """A store of a log of 1 to 5 stars with ``shift`` added to each; some users give one alone."""
    folder.mkdir()
    log = pl.read_csv(write_log(folder, num_users=100))
    number = pl.col("u").str.strip_prefix("u").cast(pl.Int64)
    # A third of the users always give the lowest rating, or always the highest.
    rating = pl.when(number % 6 == 0).then(1).when(number % 6 == 3).then(5).otherwise(pl.col("r"))
    log.with_columns(r=rating + shift).write_csv(folder / "log.csv")
    prepare(csv_config(folder / "log.csv", cold_item_fraction=0.1), folder / "store")
    return folder / "store"


def assert_alike(a, b, where: str = "") -> None:
    """The same JSON, but for what rounding changes."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_alike(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, float):
        assert a == pytest.approx(b, abs=2e-3), where
    else:
        assert a == b, where


def test_ratings_from_0_give_what_the_same_ratings_plus_one_give(tmp_path):
    evaluations = []
    for shift in (-1, 0):
        store = prepared(tmp_path / f"by {shift}", shift=shift)
        run = tmp_path / f"by {shift}" / "run"
        train(small(store), run, Display())
        evaluate_run(run)
        evaluations.append(strict_json(run / "evaluation.json"))
        scenarios = evaluations[-1]["scenarios"]
        user_cold, warm = scenarios["user_cold"], scenarios["warm"]
        assert 0 < user_cold["counted"]["ndcg@5"] < user_cold["users"]
        assert 0 < warm["counted"]["ndcg@5"] < warm["users"]
    # It is in the ratings' own units.
    assert [e["lists"].pop("positive_at") for e in evaluations] == [3, 4]
    assert_alike(*evaluations)


@pytest.fixture
def clicks(tmp_path) -> DataConfig:
    """Clicks of which a third of the users have all, and a third none."""
    log = pl.read_csv(write_log(tmp_path, num_users=100))
    number = pl.col("u").str.strip_prefix("u").cast(pl.Int64)
    rating = pl.when(number % 3 == 0).then(5).when(number % 3 == 1).then(1).otherwise(pl.col("r"))
    log.with_columns(r=rating).write_csv(tmp_path / "log.csv")
    return csv_config(tmp_path / "log.csv", label="click", test_fraction=0.3)


def test_every_table_leaves_out_and_counts_users_with_nothing_to_rank(tmp_path, clicks, capsys):
    prepare(clicks, tmp_path / "store")
    train(small(tmp_path / "store"), tmp_path / "run", Display())
    capsys.readouterr()
    assert main(["evaluate", f"run={tmp_path}/run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    user_cold = strict_json(tmp_path / "run" / "evaluation.json")["scenarios"]["user_cold"]
    shard = Store(tmp_path / "store").shard("user_cold", 0)
    queries = [rows.as_py() for rows in shard.column("query_rating")]
    num_mixed = sum(len(set(rows)) == 2 for rows in queries)
    num_clicked = sum(1.0 in rows for rows in queries)
    num_users = len(queries)
    assert 0 < num_mixed < num_clicked < num_users == user_cold["users"]
    counted = user_cold["counted"]
    assert {n for name, n in counted.items() if name not in ("mae", "rmse")} == {num_mixed}
    assert counted["mae"] == counted["rmse"] == num_users
    # In the whole catalogue, users who clicked all that they were asked have something to rank.
    assert user_cold["catalogue_counted"] == num_clicked
    assert (
        f"ndcg@1, 3, 5, 10 and auc of {num_mixed} of {num_users} users; "
        f"{num_users - num_mixed} have nothing to rank"
    ) in lines
    assert (
        f"whole catalogue of {num_clicked} of {num_users} users; "
        f"{num_users - num_clicked} have nothing to rank"
    ) in lines


@pytest.fixture
def silent(tmp_path) -> DataConfig:
    """Clicks of which validation and test users have none: for them there is nothing to rank."""
    log = pl.read_csv(write_log(tmp_path, num_users=30))
    number = pl.col("u").str.strip_prefix("u").cast(pl.Int64)
    log = log.with_columns(r=pl.when(number < 20).then(pl.col("r")).otherwise(1))
    log.write_csv(tmp_path / "log.csv")
    lines = ["part\tuser_id\trole\titem_id"]
    for user, items in log.group_by("u", maintain_order=True).agg("i").iter_rows():
        part = ("train", "train", "valid" if int(user[1:]) % 2 else "test")[int(user[1:]) // 10]
        roles = ["support"] * 5 + ["query"] * (len(items) - 5)
        lines += [f"{part}\t{user}\t{r}\t{i}" for r, i in zip(roles, items, strict=True)]
    (tmp_path / "split.tsv").write_text("\n".join(lines) + "\n")
    return csv_config(tmp_path / "log.csv", label="click", split=str(tmp_path / "split.tsv"))


def test_what_no_user_counts_in_is_null_with_a_reason(tmp_path, silent, capsys):
    prepare(silent, tmp_path / "store")
    run = tmp_path / "run"
    train(small(tmp_path / "store"), run, Display())
    capsys.readouterr()
    evaluate_run(run)
    lines = capsys.readouterr().out.splitlines()
    user_cold = strict_json(run / "evaluation.json")["scenarios"]["user_cold"]
    reason = "no user counts: each has nothing to rank"
    ranks = ["ndcg@1", "ndcg@3", "ndcg@5", "ndcg@10", "auc"]
    assert list(user_cold["models"]["adapted"]) == ["mae", "rmse", *ranks]
    assert all(user_cold["models"]["bias"][name] is None for name in ranks)
    assert user_cold["undefined"] == dict.fromkeys(ranks, reason)
    assert set(user_cold["chance"].values()) == {None}
    assert user_cold["counted"]["ndcg@5"] == user_cold["counted"]["auc"] == 0
    (group,) = user_cold["groups"]["by_group"].values()
    assert group["undefined"]["auc"] == reason
    assert set(user_cold["catalogue"]["adapted"].values()) == {None}
    assert (user_cold["catalogue_counted"], user_cold["catalogue_undefined"]) == (0, reason)
    assert "ndcg@1, 3, 5, 10 and auc undefined: of 5 users each has nothing to rank" in lines
    assert "whole catalogue undefined: of 5 users each has nothing to rank" in lines
    (heading,) = [line for line in lines if line.split()[:1] == ["user_cold,"] and "mae" in line]
    (row,) = [line for line in lines if line.split()[:1] == ["adapted"] and "–" in line][:1]
    assert heading.split()[-1] == "auc"
    assert row.split()[-5:] == ["–"] * 5
    # The validation users have nothing to rank, either.
    metrics = strict_json(run / "metrics.json")
    assert metrics["valid"]["ndcg@5"] is None
    assert metrics["best"]["rmse"] > 0
    assert curves(run)["val/valid/rmse"]
    assert "val/valid/ndcg@5" not in curves(run)


def curves(run: Path) -> dict[str, list[float]]:
    """TensorBoard's values by tag."""
    events = EventAccumulator(str(run / "tensorboard"), {"scalars": 0})
    events.Reload()
    return {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_predictions_that_are_not_finite_are_null_with_that_reason(tmp_path):
    prepare(csv_config(write_log(tmp_path, num_users=30)), tmp_path / "store")
    config = small(tmp_path / "store", max_nonfinite_fraction=1.0)
    config = replace(config, inner=InnerConfig(learning_rate=1e30))
    train(config, tmp_path / "run", Display())
    metrics = strict_json(tmp_path / "run" / "metrics.json")
    assert (metrics["valid"]["rmse"], metrics["best"]) == (None, None)
    assert "val/valid/rmse" not in curves(tmp_path / "run")
    evaluate_run(tmp_path / "run")
    user_cold = strict_json(tmp_path / "run" / "evaluation.json")["scenarios"]["user_cold"]
    assert user_cold["models"]["adapted"]["rmse"] is None
    assert user_cold["undefined"]["rmse"] == "the predictions are not finite"
    assert user_cold["counted"]["rmse"] == user_cold["users"]
    assert user_cold["models"]["bias"]["rmse"] > 0


def test_json_is_never_written_with_nan(tmp_path):
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            write_json_atomically(tmp_path / "a.json", {"a": value})
    assert not list(tmp_path.iterdir())
