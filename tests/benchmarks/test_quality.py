"""The results file and tables of the quality benchmark."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.quality import runs
from benchmarks.quality.data_sets import DataSet
from benchmarks.quality.models import SHIPPED, UNIFORM, options_of
from benchmarks.quality.results import Results, Run, run_key
from benchmarks.quality.runs import run_trained
from benchmarks.quality.tables import PAIRS, cell, comparison, interval, table
from greatmeta_dist.config import DataConfig
from greatmeta_dist.training.loop import train

METRICS = ("mae", "rmse", "ndcg@3", "ndcg@5", "ndcg@10")
SUPPORTS = ("full", "10", "10 drawn", "5", "5 drawn")


def scores(value):
    users = {who: dict.fromkeys(METRICS, value) for who in ("all", "minority", "worst_tenth")}
    return {"adapted": dict.fromkeys(SUPPORTS, users), "unadapted": dict.fromkeys(SUPPORTS, users)}


def write_results(path, values):
    """A file with one run for each (model, seed)."""
    entries = {}
    for (model, seed), value in values.items():
        alone = {"scores": scores(value + 1)}
        entries[run_key("data", model, seed)] = {
            "seconds": 1,
            "scores": scores(value),
            "alone": alone,
        }
    path.write_text(json.dumps({"runs": entries}))
    return Results(path)


def make(value):
    return {"value": value, "process": os.getpid()}


def test_runs_are_made_once_and_again_only_where_store_or_options_changed(tmp_path):
    store = SimpleNamespace(identity="a")
    wanted = [Run(f"data | m | {k}", store, ["x=1"], make, (k,)) for k in range(2)]
    path = tmp_path / "quality.json"
    Results(path).make_missing(wanted, 1, "test")
    first = Results(path).runs
    assert [first[run.key]["value"] for run in wanted] == [0, 1]
    assert first[wanted[0].key]["process"] != os.getpid()

    changed = Run(wanted[1].key, store, ["x=2"], make, (5,))
    Results(path).make_missing([wanted[0], changed], 1, "test")
    second = Results(path).runs
    assert second[wanted[0].key] == first[wanted[0].key]
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


def fail():
    raise ValueError("no such data")


def test_a_run_that_fails_keeps_no_other_from_being_made_and_is_told_at_the_end(tmp_path):
    store = SimpleNamespace(identity="a")
    failing = Run("data | bad | 0", store, [], fail, ())
    good = Run("data | good | 0", store, [], make, (3,))
    with pytest.raises(ExceptionGroup, match="1 of 2 runs failed") as raised:
        Results(tmp_path / "quality.json").make_missing([failing, good], 1, "test")
    assert raised.value.exceptions[0].__notes__ == ["in the run data | bad | 0"]
    assert list(Results(tmp_path / "quality.json").runs) == [good.key]


MAKE_RESULTS = """
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace


def make():
    return {"value": 1}


def wait_forever(folder):
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(600)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[2])
    from benchmarks.quality.results import Results, Run

    folder, store = Path(sys.argv[1]), SimpleNamespace(identity="a")
    runs = [
        Run("data | done | 0", store, [], make, ()),
        Run("data | waiting | 0", store, [], wait_forever, (folder,)),
    ]
    Results(folder / "quality.json").make_missing(runs, 1, "test")
"""


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_stop_leaves_what_was_done_and_no_process(tmp_path, kind):
    script, pid, path = (tmp_path / n for n in ("make_results.py", "pid", "quality.json"))
    script.write_text(MAKE_RESULTS)
    words = [sys.executable, str(script), str(tmp_path), str(Path(__file__).parents[2])]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: path.exists() and pid.exists() and pid.read_text())
        process.send_signal(kind)
        process.wait(30)
    wait_until(lambda: not is_alive(int(pid.read_text())))
    assert list(Results(path).runs) == ["data | done | 0"]


def test_a_training_that_was_stopped_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    data = DataSet(DataConfig(users=60, items=40, mean_interactions=20), tmp_path / "store")
    data.prepared()
    options = ["train.steps=6", "train.valid_every=2", "train.checkpoint_every=2"]
    whole = run_trained(data, options, 0, 1, tmp_path / "whole")

    def train_half(config, run, display):
        train(replace(config, train=replace(config.train, steps=2)), run, display)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "train", train_half)
    with pytest.raises(KeyboardInterrupt):
        run_trained(data, options, 0, 1, tmp_path / "stopped")
    monkeypatch.setattr(runs, "train", train)
    resumed = run_trained(data, options, 0, 1, tmp_path / "stopped")
    assert whole["seconds"] > 0
    assert resumed["seconds"] is None
    # As text, in which nan equals nan.
    assert json.dumps(resumed["scores"]) == json.dumps(whole["scores"])
    assert not list((tmp_path / "stopped").iterdir())


def test_tables_have_the_worst_tenth_and_stand_results_without_it(tmp_path):
    results = write_results(tmp_path / "quality.json", {(SHIPPED, 0): 0.9, (UNIFORM, 0): 0.95})
    heading, _, shipped, *_ = (row.split(" | ") for row in table(results, "data").split("\n"))
    assert shipped[heading.index("RMSE, worst tenth")] == "0.900"
    for run in results.runs.values():
        del run["scores"]["adapted"]["full"]["worst_tenth"]
        run["seconds"] = None
    without = table(results, "data").split("\n")[2].split(" | ")
    assert without[heading.index("RMSE, worst tenth")] == ""
