"""``greatmeta train -m`` as a user meets it: several trainings, stopped, gone on with, extended."""

import csv
import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from small_training import assert_same, final_state, prepare_store
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from greatmeta_dist.cli import main
from greatmeta_dist.display import Display
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.sweep import processes
from greatmeta_dist.sweep.room import Room
from greatmeta_dist.training.loop import train

TINY = ["train.users_per_batch=8", "train.valid_every=20", "train.log_every=5", "model.hidden=[8]"]
GOOD = ["inner.learning_rate=0.02,train.seed=0", "inner.learning_rate=0.02,train.seed=1"]
BAD = ["inner.learning_rate=1e+30,train.seed=0", "inner.learning_rate=1e+30,train.seed=1"]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return prepare_store(tmp_path_factory.mktemp("sweep"))


def stop_once_training(runs: list[Path]) -> None:
    """Send this process a Ctrl-C once all runs take steps."""

    def watch() -> None:
        while not all((run / "history.jsonl").exists() for run in runs):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def newest_step(run: Path) -> int:
    return max(
        int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*")
    )


def statuses(sweep: Path) -> dict[str, str]:
    return {r["run"]: r["status"] for r in json.loads((sweep / "summary.json").read_text())["runs"]}


def hyperparameters(run: Path) -> set[str]:
    """Names of the options that HParams shows of a run."""
    for path in sorted((run / "tensorboard").iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag == "_hparams_/session_start_info":
                    return set(re.findall(rb"[\w.]+\.[\w.]+", value.metadata.plugin_data.content))
    raise AssertionError(f"no hyperparameters in {run}")


@pytest.mark.timeout(900)  # seven processes, which other work may slow
def test_a_sweep_stops_goes_on_survives_failures_and_takes_more_values(
    capsys, monkeypatch, store, tmp_path
):
    sweep = tmp_path / "sweep"
    words = ["train", "-m", f"store={store}", f"run={sweep}", *TINY, "sweep.parallel=2"]
    swept = ["inner.learning_rate=0.02,1e30", "train.seed=0,1"]

    # One Ctrl-C stops what runs, with checkpoints; the rest has not begun.
    stop_once_training([sweep / name for name in GOOD])
    assert main([*words, *swept, "train.steps=1000000"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "greatmeta: interrupted; run the same command again to go on\n"
    assert statuses(sweep) == dict.fromkeys(GOOD, "stopped") | dict.fromkeys(BAD, "unfinished")

    steps = f"train.steps={5 + max(newest_step(sweep / name) for name in GOOD)}"

    # The sweep remembers its words. What fails is listed, and stops nothing else.
    assert main(["train", "-m", f"run={sweep}", steps]) == 1
    captured = capsys.readouterr()
    assert captured.err == "greatmeta: 2 of 4 jobs failed; the same command tries them again\n"
    assert statuses(sweep) == dict.fromkeys(GOOD, "done") | dict.fromkeys(BAD, "failed")
    for name in BAD:
        assert re.search(rf"^failed {re.escape(name)}: .*training diverged.*$", captured.out, re.M)
    assert "resuming" in (sweep / GOOD[0] / "train.log").read_text()
    assert "fit priors" not in captured.out

    # Priors are fitted once, and runs are what they would be alone.
    fits = [run.read_text().count("fit priors: 100/100") for run in sweep.glob("*/train.log")]
    assert sum(fits) == 1
    config = compose_config([f"store={store}", *TINY, "train.seed=1", steps])
    train(config, tmp_path / "alone", Display())
    assert_same(final_state(sweep / GOOD[1]), final_state(tmp_path / "alone"))
    names = [hyperparameters(sweep / name) for name in (*GOOD, *BAD)]
    assert names[0]
    assert all(of_run == names[0] for of_run in names)
    capsys.readouterr()

    # More values, in other words: what is there already is not trained again.
    started = []
    start = processes._start
    monkeypatch.setattr(
        processes, "_start", lambda task, *more: started.append(task.job.name) or start(task, *more)
    )
    assert main([*words, steps, "train.seed=1,2", "inner.learning_rate=2e-2"]) == 0
    assert started == ["inner.learning_rate=0.02,train.seed=2"]
    capsys.readouterr()

    # One table of all, of which each is evaluated once.
    assert main(["evaluate", f"run={sweep}"]) == 0
    out = capsys.readouterr().out
    assert "3 runs are finished, and 3 of them to be evaluated" in out
    assert main(["evaluate", f"run={sweep}"]) == 0
    assert "3 runs are finished, and 0 of them to be evaluated" in capsys.readouterr().out
    table = (sweep / "summary.csv").read_text().splitlines()
    rows = {row["run"]: row for row in csv.DictReader(table)}
    assert rows.keys() == {*GOOD, *BAD, *started}
    best = min((*GOOD, *started), key=lambda name: float(rows[name]["valid rmse"]))
    assert [name for name in rows if rows[name]["best"] == "*"] == [best]
    assert f"{sweep / best}" in out
    of_best = json.loads((sweep / best / "evaluation.json").read_text())
    rmse = of_best["scenarios"]["user_cold"]["models"]["adapted"]["rmse"]
    assert float(rows[best]["user_cold rmse"]) == rmse
    assert main(["recommend", f"run={sweep}", "users=u.csv", f"out={tmp_path}/o.parquet"]) == 2
    assert "is the folder of a sweep; name one of its runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, expected",
    [
        (["train.seed=0,one"], "train.seed is 'one'"),
        (["train.seed=0,0.5"], "train.seed is '0.5'"),
        (["train.users_per_batch=8,100000"], "train.users_per_batch=100000: train.users_per_batch"),
        (["train.seed=choice(0,1"], "check its brackets, quotes and commas"),
        (["train.steps=9"], "-m has nothing to sweep over; give an option several values, as"),
        (["train.seed=interval(0,9)"], "set sweep.budget=N"),
        (["train.seed=0,1", "sweep.parallel=0"], "sweep.parallel is 0; it must be 1 or more"),
        (["sweep.budget=3", "train.learning_rate=interval(0.1,2)"], "train.learning_rate is 2"),
        (["sweep.budget=3", "scheduler.kind=interval(0,1)"], "it takes no numbers"),
        (["sweep.budget=3", "train.steps=9"], "give an option a range"),
    ],
)
def test_what_one_job_could_not_do_is_refused_before_any_starts(
    capsys, store, tmp_path, words, expected
):
    assert main(["train", "-m", f"store={store}", f"run={tmp_path}/s", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert expected in captured.err
    assert not (tmp_path / "s").exists()


def test_folders_are_not_mistaken(capsys, store, tmp_path):
    def error(*words: str) -> str:
        assert main(["train", *words]) == 2
        return capsys.readouterr().err

    common = [f"store={store}", "train.seed=0,1"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    assert "exists and is no sweep" in error("-m", f"run={tmp_path}/other", *common)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    assert "is a training, not a sweep" in error("-m", f"run={tmp_path}/run", *common)
    assert "no sweep to go on with" in error("-m", f"run={tmp_path}/new", "train.seed=0,1")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text('{"options": {}, "jobs": {}}')
    assert "greatmeta train -m run=" in error(f"run={tmp_path}/sweep", f"store={store}")
    (tmp_path / "sweep" / "sweep.json").write_text("{")
    assert "sweep.json cannot be read" in error("-m", f"run={tmp_path}/sweep", *common)
    assert "which takes -m" in error(f"run={tmp_path}/new", f"store={store}", "sweep.parallel=2")


def test_room_is_what_processors_and_gpus_hold():
    room = Room({"CPU": 8, "GPU": 2}, gpus=["3", "5"])
    need = {"CPU": 2.0, "GPU": 1.0}
    assert [room.take(need), room.take(need)] == [["3"], ["5"]]
    assert not room.holds(need)
    assert room.holds({"CPU": 4.0})
    assert not room.holds({"CPU": 5.0})
    room.leave(need, ["3"])
    assert room.take(need) == ["3"]
    assert Room({"CPU": 1}).holds({"CPU": 4.0})  # alone it runs, slowly
    limited = Room({"CPU": 1}, limit=2)
    limited.take({"CPU": 4.0})
    assert limited.holds({"CPU": 4.0})
    limited.take({"CPU": 4.0})
    assert not limited.holds({"CPU": 4.0})
