"""Lists, known rows, other stores and logs, and two runs, by the command."""

import json
from pathlib import Path

import polars as pl
import pytest
from logs import csv_config, write_log
from small_training import prepare_store, small

from greatmeta_dist.cli import main
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.display import Display
from greatmeta_dist.training.loop import train

OTHER_DATA = "evaluate.other_data=true"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two runs on one store, and a run on another store."""
    folder = tmp_path_factory.mktemp("evaluate")
    store = prepare_store(folder, seed=1)
    for name, steps in (("a", 4), ("b", 8)):
        train(small(store, steps=steps, valid_every=4), folder / name, Display())
    other = folder / "of another log"
    other.mkdir()
    log = write_log(other, num_users=60, num_items=60, seed=7)
    prepare(csv_config(log, test_fraction=0.4), other / "store")
    train(small(other / "store", steps=4, valid_every=4), folder / "c", Display())
    return folder


def evaluated(run: Path, name: str = "evaluation") -> dict:
    return json.loads((run / f"{name}.json").read_text())


def test_lists_and_known_rows_are_of_every_scenario_by_group_with_counts(folder, capsys):
    words = ["evaluate.cutoffs=[2,7]", "evaluate.known_rows=[3]", "evaluate.positive_at=3"]
    assert main(["evaluate", f"run={folder}/a", *words]) == 0
    shown = capsys.readouterr().out
    found = evaluated(folder / "a")
    assert found["lists"] == {"cutoffs": [2, 7], "positive_at": 3.0}
    assert {"warm", "user_cold", "item_cold", "both_cold"} == set(found["scenarios"])
    for name, scenario in found["scenarios"].items():
        for kind in ("candidates", "catalogue"):
            lists = scenario["lists"][kind]
            assert set(lists["models"]) == set(scenario["models"])
            numbers = lists["models"]["adapted"]
            names = ("recall", "hr", "ndcg", "coverage", "novelty")
            assert set(numbers) == {"mrr", *(f"{n}@{k}" for n in names for k in (2, 7))}
            assert numbers["recall@2"] <= numbers["recall@7"]
            assert numbers["hr@7"] >= numbers["recall@7"]
            assert 0 < numbers["coverage@7"] <= 1
            assert 0 < lists["counted"]["mrr"] <= lists["users"] == scenario["users"]
            groups = lists["groups"]["by_group"].values()
            assert sum(group["users"] for group in groups) == scenario["users"]
            assert sum(group["counted"]["mrr"] for group in groups) == lists["counted"]["mrr"]
            assert f"{name}, {kind}" in shown
        known = scenario["known_rows"]["3"]
        assert known["users"] == scenario["users"]
        assert known["models"]["global_mean"] == scenario["models"]["global_mean"]
        assert known["models"]["bias"]["rmse"] != scenario["models"]["bias"]["rmse"]
        assert "mrr" in known["lists"]["candidates"]["models"]["adapted"]
        assert f"{name}, first 3 known" in shown


def test_options_of_lists_leave_the_other_numbers_as_they_are(folder):
    assert main(["evaluate", f"run={folder}/b"]) == 0
    before = evaluated(folder / "b")["scenarios"]
    assert main(["evaluate", f"run={folder}/b", "evaluate.cutoffs=[3]"]) == 0
    after = evaluated(folder / "b")["scenarios"]
    for name in before:
        for part in ("models", "chance", "counted", "groups", "worst_tenth"):
            assert before[name][part] == after[name][part]


def test_the_catalogue_is_ranked_for_about_as_many_users_as_asked(folder):
    words = ["evaluate.catalogue_users=10", "evaluate.cutoffs=[5]"]
    assert main(["evaluate", f"run={folder}/b", *words]) == 0
    lists = evaluated(folder / "b")["scenarios"]["user_cold"]["lists"]
    assert 10 <= lists["catalogue"]["users"] < lists["candidates"]["users"]


def test_two_runs_are_compared_on_the_same_users(folder, capsys):
    assert main(["evaluate", f"run={folder}/a", f"against={folder}/b"]) == 0
    assert "against" in capsys.readouterr().out
    found = evaluated(folder / "a", "comparison")
    assert found["steps"] == [4, 8]
    user_cold = found["scenarios"]["user_cold"]
    test, scenario = user_cold["ratings"]["ndcg@5"], evaluated(folder / "a")["scenarios"]
    assert test["users"] == scenario["user_cold"]["counted"]["ndcg@5"]
    assert test["ours"] == pytest.approx(scenario["user_cold"]["models"]["adapted"]["ndcg@5"])
    low, high = user_cold["ratings"]["rmse"]["interval"]
    assert low < user_cold["ratings"]["rmse"]["difference"] < high
    assert 0 <= user_cold["ratings"]["rmse"]["p_value"] <= 1
    assert "recall@5" in user_cold["catalogue"]
    assert main(["evaluate", f"run={folder}/b", f"against={folder}/a"]) == 0
    turned = evaluated(folder / "b", "comparison")["scenarios"]["user_cold"]["ratings"]["rmse"]
    assert turned["difference"] == -user_cold["ratings"]["rmse"]["difference"]


def test_runs_of_different_stores_are_compared_on_a_store_that_is_named(folder, capsys):
    assert main(["evaluate", f"run={folder}/a", f"against={folder}/c"]) == 2
    error = capsys.readouterr().err
    assert "were trained on different stores" in error
    assert error.count("\n") == 1
    words = [f"against={folder}/c", f"store={folder}/store", OTHER_DATA]
    assert main(["evaluate", f"run={folder}/a", *words]) == 0
    assert evaluated(folder / "a", "comparison")["scenarios"]["user_cold"]["ratings"]


def test_another_store_is_asked_by_ids_and_what_is_unknown_is_counted(folder, capsys):
    own = evaluated(folder / "c") if (folder / "c/evaluation.json").exists() else None
    assert main(["evaluate", f"run={folder}/c", f"store={folder}/store", OTHER_DATA]) == 0
    found = evaluated(folder / "c", "other-evaluation")
    unknown = found["other"]["unknown"]["user_cold"]
    assert unknown["items"] == 0
    assert unknown["query_rows"] == 0 < unknown["num_query_rows"]
    assert (folder / "c/evaluation.json").exists() == (own is not None)
    # The other way round the run lacks a sixth of the items.
    words = [f"run={folder}/a", f"store={folder}/of another log/store", OTHER_DATA]
    capsys.readouterr()
    assert main(["evaluate", *words]) == 0
    found = evaluated(folder / "a", "other-evaluation")
    unknown = found["other"]["unknown"]["user_cold"]
    assert unknown["items"] >= 10
    assert 0 < unknown["query_rows"] < unknown["num_query_rows"]
    assert "count as unknown" in capsys.readouterr().out
    scenario = found["scenarios"]["user_cold"]
    assert scenario["models"]["adapted"]["rmse"] > 0
    assert scenario["lists"]["catalogue"]["models"]["adapted"]["coverage@20"] <= 1


def test_the_runs_own_store_is_the_same_by_another_name(folder, tmp_path):
    (tmp_path / "moved").symlink_to(folder / "store")
    assert main(["evaluate", f"run={folder}/b", f"store={tmp_path}/moved"]) == 0
    moved = evaluated(folder / "b")
    assert "other" not in moved
    assert main(["evaluate", f"run={folder}/b"]) == 0
    assert evaluated(folder / "b") == moved


def test_a_log_of_other_users_is_read_as_the_runs_own_and_all_are_asked(folder, tmp_path):
    log = write_log(tmp_path, num_users=25, seed=3)
    assert main(["evaluate", f"run={folder}/b", f"users={log}"]) == 0
    found = evaluated(folder / "b", "other-evaluation")
    assert list(found["scenarios"]) == ["user_cold"]
    assert found["scenarios"]["user_cold"]["users"] == 25
    assert found["other"]["path"] == str(log)


def test_a_log_of_another_form_has_the_runs_columns_or_usual_ones(folder, tmp_path):
    log = pl.read_csv(write_log(tmp_path, num_users=25, seed=3))
    usual = {"user": "userId", "item": "movieId", "rating": "stars"}
    results = []
    for name, columns in (("same", {}), ("usual", usual)):
        path = tmp_path / f"{name}.parquet"
        log.rename({old: new for old, new in columns.items() if old in log.columns}).write_parquet(
            path
        )
        assert main(["evaluate", f"run={folder}/b", f"users={path}"]) == 0
        results.append(evaluated(folder / "b", "other-evaluation")["scenarios"])
    assert results[0] == results[1]
    assert results[0]["user_cold"]["users"] == 25
    renamed = log.rename({log.columns[0]: "who"})
    renamed.write_csv(tmp_path / "odd.csv")
    words = ["evaluate", f"run={folder}/b", f"users={tmp_path}/odd.csv"]
    assert main(words) == 2
    assert main([*words, "data.columns.user=who"]) == 0
    assert evaluated(folder / "b", "other-evaluation")["scenarios"] == results[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["against={folder}/nothing"], "holds no run"),
        (["against={folder}/a"], "is the run itself"),
        (["users={folder}/nothing.csv"], "nothing.csv does not exist; check the path"),
        (["users={folder}/log.csv", "store={folder}/store"], "are both set"),
        (["data.min_interactions=5"], "without users=LOG"),
        (["evaluate.cutoffs=[0]"], "evaluate.cutoffs is 0; it must be 1 or more"),
        (["evaluate.cutoffs=[]"], "evaluate.cutoffs is empty"),
        (["evaluate.known_rows=[5,5]"], "expected different numbers"),
        (["evaluate.cutofs=[5]"], "evaluate.cutoffs"),
        (["store={folder}/nothing"], "is not a prepared store"),
        (["store={folder}/of another log/store"], "all the same with evaluate.other_data=true"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_one_line(folder, capsys, words, message):
    words = [word.format(folder=folder) for word in words]
    assert main(["evaluate", f"run={folder}/a", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_store_of_clicks_is_no_store_for_a_run_of_ratings(folder, tmp_path, capsys):
    prepare(csv_config(write_log(tmp_path), label="click"), tmp_path / "clicks")
    assert main(["evaluate", f"run={folder}/a", f"store={tmp_path}/clicks", OTHER_DATA]) == 2
    assert "holds clicks, and the run predicts ratings" in capsys.readouterr().err
    log = tmp_path / "log.csv"
    log.write_text(log.read_text().replace(",5,", ",10,"))
    prepare(csv_config(log), tmp_path / "ten")
    assert main(["evaluate", f"run={folder}/a", f"store={tmp_path}/ten", OTHER_DATA]) == 2
    assert "go from 1 to 10, those of the run from 1 to 5" in capsys.readouterr().err
