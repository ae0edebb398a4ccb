"""The results file and tables of the quality benchmark."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.quality.data_sets import DataSet
from benchmarks.quality.models import SHIPPED, UNIFORM, options_of
from benchmarks.quality.results import Results, Run, run_key
from benchmarks.quality.tables import PAIRS, cell, comparison, interval, table

METRICS = ("mae", "rmse", "ndcg@3", "ndcg@5", "ndcg@10")
SUPPORTS = ("full", "10", "10 drawn", "5", "5 drawn")


def scores(value):
    users = {who: dict.fromkeys(METRICS, value) for who in ("all", "minority", "worst_tenth")}
    return {"adapted": dict.fromkeys(SUPPORTS, users), "unadapted": dict.fromkeys(SUPPORTS, users)}


def write_results(path, values):
    """A file with one run for each (model, seed)."""
    runs = {}
    for (model, seed), value in values.items():
        alone = {"scores": scores(value + 1)}
        runs[run_key("data", model, seed)] = {"seconds": 1, "scores": scores(value), "alone": alone}
    path.write_text(json.dumps({"runs": runs}))
    return Results(path)


def make(value):
    return {"value": value, "process": os.getpid()}


def test_runs_are_made_once_and_again_only_where_store_or_options_changed(tmp_path):
    store = SimpleNamespace(identity="a")
    runs = [Run(f"data | m | {k}", store, ["x=1"], make, (k,)) for k in range(2)]
    path = tmp_path / "quality.json"
    Results(path).make_missing(runs, 1, "test")
    first = Results(path).runs
    assert [first[run.key]["value"] for run in runs] == [0, 1]
    assert first[runs[0].key]["process"] != os.getpid()

    changed = Run(runs[1].key, store, ["x=2"], make, (5,))
    Results(path).make_missing([runs[0], changed], 1, "test")
    second = Results(path).runs
    assert second[runs[0].key] == first[runs[0].key]
    assert second[changed.key]["value"] == 5


def test_an_experiment_of_the_model_replaces_that_of_the_data():
    data = DataSet(None, Path("store"), ["experiment=ml-100k"])
    assert options_of(data, UNIFORM) == ["experiment=ml-100k", "scheduler=uniform"]
    assert options_of(data, "GreatMeta, authors' form and settings") == ["experiment=paper"]


def test_interval_is_students():
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert cell([1.0]) == "1.000"
    assert cell([float("nan")]) == ""


def test_the_table_has_the_shipped_model_unadapted_and_without_factorisation(tmp_path):
    results = write_results(tmp_path / "quality.json", {(SHIPPED, 0): 0.9, (UNIFORM, 0): 0.95})
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table(results, "data").split("\n")]
    assert rows[2:] == [
        SHIPPED,
        f"{SHIPPED}, unadapted",
        "… without factorisation",
        UNIFORM,
    ]


def test_the_comparison_is_seed_by_seed(tmp_path):
    values = {(SHIPPED, 0): 0.9, (SHIPPED, 1): 1.9, (UNIFORM, 0): 1.0, (UNIFORM, 1): 2.0}
    results = write_results(tmp_path / "quality.json", values)
    for is_alone in (False, True):
        lines = comparison(results, ["data"], PAIRS[0], is_alone=is_alone).split("\n")
        assert [line.split(" | ")[1:3] for line in lines[2:]] == [["2", "-0.1000 ±0.0000"]] * 2
