"""A search draws good values, goes on where it was stopped, and says what it needs."""

import json
import sys
from pathlib import Path

import pytest
from small_training import prepare_store

from greatmeta_dist.errors import InputError
from greatmeta_dist.sweep.folder import SweepFolder
from greatmeta_dist.sweep.plan import plan_sweep
from greatmeta_dist.sweep.sources import Search
from greatmeta_dist.training.run_config import write_config

WORDS = [
    "train.learning_rate=tag(log,interval(1e-4,1e-1))",
    "train.users_per_batch=interval(4,16)",
    "scheduler.kind=balanced,uniform",
    "inner.steps=range(1,6,2)",
    "train.steps=4",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return prepare_store(tmp_path_factory.mktemp("search"))


def open_search(store: Path, folder: Path, *words: str) -> Search:
    """A search that is planned anew, as by a command of its own."""
    plan = plan_sweep(SweepFolder.read(folder), [f"store={store}", f"run={folder}", *words])
    folder.mkdir(exist_ok=True)
    plan.folder.write()
    return Search(plan, lambda cluster: {}, lambda result: None)


def run_search(search: Search, num_trials: int | None = None) -> list[dict[str, str]]:
    """Take trials, whose loss is the learning rate's distance from 0.01; the values of each."""
    drawn = []
    while num_trials is None or len(drawn) < num_trials:
        task = search.next_task()
        if task is None:
            break
        drawn.append(task.job.values)
        task.run.mkdir(exist_ok=True)
        write_config(task.run, task.config, note=None)
        rmse = abs(task.config.train.learning_rate - 0.01)
        metrics = {"step": 4, "valid": {}, "best": {"step": 4, "rmse": rmse}}
        (task.run / "metrics.json").write_text(json.dumps(metrics))
        search.ended(task)
    return drawn


def test_a_search_that_was_stopped_goes_on_with_the_values_it_would_have_had(store, tmp_path):
    budget = [*WORDS, "sweep.budget=12", "sweep.parallel=1"]
    whole = run_search(open_search(store, tmp_path / "whole", *budget))
    assert len(whole) == 12
    parts = run_search(open_search(store, tmp_path / "parts", *budget, "sweep.budget=5"))
    parts += run_search(open_search(store, tmp_path / "parts", *budget), 5)
    unfinished = open_search(store, tmp_path / "parts", *budget)
    task = unfinished.next_task()  # its command is killed
    assert task is not None
    assert not (task.run / "metrics.json").exists()
    parts += run_search(open_search(store, tmp_path / "parts", *budget))
    assert parts == whole
    for values in whole:
        assert 1e-4 <= float(values["train.learning_rate"]) <= 0.1
        assert 4 <= int(values["train.users_per_batch"]) <= 16
        assert values["inner.steps"] in ("1", "3", "5")
    assert len({values["train.learning_rate"] for values in whole}) == 12
    assert {values["scheduler.kind"] for values in whole} == {"balanced", "uniform"}
    assert run_search(open_search(store, tmp_path / "whole", *budget)) == []
    other = open_search(store, tmp_path / "other", *budget, "sweep.seed=7")
    assert run_search(other, 1) != whole[:1]


def test_values_of_finished_trials_steer_those_to_come(store, tmp_path):
    words = [
        "train.learning_rate=tag(log,interval(1e-4,1e-1))",
        "train.steps=4",
        "sweep.parallel=1",
    ]
    drawn = run_search(open_search(store, tmp_path / "s", *words, "sweep.budget=24"))
    distance = [abs(float(values["train.learning_rate"]) - 0.01) for values in drawn]
    random, steered = distance[:10], distance[14:]
    assert sorted(steered)[5] < sorted(random)[5]


def test_without_optuna_a_search_is_refused_in_one_line(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'greatmeta_dist\[sweep\]'"):
        open_search(store, tmp_path / "s", *WORDS, "sweep.budget=2")
