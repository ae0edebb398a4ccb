"""Training resumes bitwise, stops well, and leaves readable records."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from small_training import Lines, assert_same, final_state, small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from greatmeta_dist.config import ClusterConfig, InnerConfig, SchedulerConfig
from greatmeta_dist.display import Display
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.meta.native import library, row_layers
from greatmeta_dist.predict import Predictor
from greatmeta_dist.training import loop
from greatmeta_dist.training.history import History
from greatmeta_dist.training.loop import train
from greatmeta_dist.training.regroup import Regroup, Regrouping
from greatmeta_dist.training.run_folder import open_run
from greatmeta_dist.training.saved_model import SavedModel


@pytest.mark.parametrize("update", ["lazy", "dense"])
@pytest.mark.parametrize("kind", ["balanced", "mlp", "lstm", "groups", "uniform"])
def test_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path, store, kind, update):
    config = replace(small(store, row_update=update), scheduler=SchedulerConfig(kind=kind))
    train(config, tmp_path / "whole", Display())
    for steps in (5, 12):
        part = replace(config, train=replace(config.train, steps=steps))
        train(part, tmp_path / "parts", Display())
    assert_same(final_state(tmp_path / "whole"), final_state(tmp_path / "parts"))


def test_resume_goes_past_a_damaged_checkpoint(tmp_path, store):
    train(small(store), tmp_path / "run", Display())
    expected = final_state(tmp_path / "run")
    newest = checkpoint.steps(tmp_path / "run" / "checkpoints")[-1]
    folder = tmp_path / "run" / "checkpoints" / f"step-{newest:09d}"
    (folder / "dense.safetensors").write_bytes(b"no")
    train(small(store), tmp_path / "run", Display())
    assert_same(final_state(tmp_path / "run"), expected)


def test_several_lanes_train_in_one_process(tmp_path, store):
    metrics = train(small(store, lanes=4), tmp_path / "run", Display())
    assert metrics["step"] == 12
    assert metrics["best"]["rmse"] < 2


def test_where_users_depend_on_their_batch_lanes_go_one_after_another_and_it_is_said(
    tmp_path, store, monkeypatch
):
    train(small(store, lanes=4), tmp_path / "together", Display())
    monkeypatch.setattr(loop.Worker, "is_batch_invariant", lambda *batches: False)
    lines = Lines()
    train(small(store, lanes=4), tmp_path / "apart", lines)
    assert sum("lanes are computed one after another" in line for line in lines.lines) == 1
    assert_same(final_state(tmp_path / "together"), final_state(tmp_path / "apart"))


def trained_with(adaptation: str, store, run) -> tuple[Lines, dict[str, torch.Tensor]]:
    lines = Lines()
    config = replace(small(store), cluster=ClusterConfig(adaptation=adaptation))
    train(config, run, lines)
    return lines, final_state(run)


def said_of_torch(lines: Lines) -> int:
    return sum("users adapt by torch's operations" in line for line in lines.lines)


def test_without_compiled_code_users_adapt_by_torch_and_it_is_said(tmp_path, store, monkeypatch):
    lines, native = trained_with("native", store, tmp_path / "native")
    assert not said_of_torch(lines)
    lines, expected = trained_with("torch", store, tmp_path / "torch")
    assert not said_of_torch(lines)
    monkeypatch.setattr(library, "_library", lambda: None)
    lines, found = trained_with("native", store, tmp_path / "without")
    assert said_of_torch(lines) == 1
    assert_same(found, expected)
    assert not all(torch.equal(found[k], native[k]) for k in found)
    for name, tensor in native.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-3)


def test_compiled_code_that_is_wrong_is_not_used(tmp_path, store, monkeypatch):
    _, expected = trained_with("torch", store, tmp_path / "torch")
    original = library.inner_step

    def wrong(work):
        work.rate *= 1.1
        original(work)

    monkeypatch.setattr(row_layers, "inner_step", wrong)
    lines, found = trained_with("native", store, tmp_path / "wrong")
    assert said_of_torch(lines) == 1
    assert_same(found, expected)


def test_steps_in_which_nobody_counts_are_recorded(tmp_path, store):
    config = small(store, max_nonfinite_fraction=1.0)
    config = replace(config, inner=InnerConfig(learning_rate=1e30))
    metrics = train(config, tmp_path / "run", Display())
    assert (metrics["step"], metrics["best"]) == (12, None)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), {"scalars": 0})
    events.Reload()
    assert {e.value for e in events.Scalars("train/nonfinite_share")} == {1.0}


def test_tensorboard_holds_every_group_of_tags_and_no_doubled_points(tmp_path, store):
    train(small(store, steps=6), tmp_path / "run", Display())
    train(small(store, steps=12), tmp_path / "run", Display())
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), {"scalars": 0})
    events.Reload()
    scalars, histograms = events.Tags()["scalars"], events.Tags()["histograms"]
    for tag in (
        "train/loss",
        "train/rmse",
        "meta/entropy",
        "meta/effective_sample_size",
        "val/valid/rmse",
        "val/valid/ndcg@5",
        "val/user_cold/rmse",
        "val/both_cold/mae",
        "perf/users_per_s",
        "system/peak_memory_mib",
    ):
        assert tag in scalars
    for prefix in ("meta/weight_by_group/", "meta/weight_by_activity/", "val/valid/rmse_by_group/"):
        assert any(tag.startswith(prefix) for tag in scalars)
    assert {"meta/weights", "meta/magnitude", "meta/gap", "meta/agreement"} <= set(histograms)
    steps = [e.step for e in events.Scalars("train/loss")]
    assert steps == sorted(set(steps)) == [2, 4, 6, 8, 10, 12]


def test_interrupted_run_leaves_a_checkpoint_and_resumes(tmp_path, store):
    run = tmp_path / "run"
    command = [
        sys.executable, "-m", "greatmeta_dist", "train", f"store={store}", f"run={run}",
        "train.steps=100000", "train.users_per_batch=8", "train.checkpoint_every=100000",
        "train.valid_every=100000", "train.log_every=5",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    events = run / "tensorboard"
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size > 5000 for p in events.glob("*tfevents.[1-9]*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.strip() == "greatmeta: interrupted; run the same command again to go on"
    (step,) = checkpoint.steps(run / "checkpoints")
    assert step > 0
    assert SavedModel.open(run).blend_weight(step) is not None
    again = [*command[:-3], *command[-2:], f"train.steps={step + 3}"]
    again[again.index("train.steps=100000")] = "train.keep_checkpoints=3"
    done = subprocess.run(again, capture_output=True, text=True, check=True)
    assert f"resuming {run} after step {step}" in done.stdout
    assert json.loads((run / "metrics.json").read_text())["step"] == step + 3


def test_a_stopped_training_predicts_with_the_best_steps_own_blend_weight(tmp_path, store):
    calls = []

    def is_stopped() -> bool:
        calls.append(len(calls))
        return len(calls) == 7

    with pytest.raises(KeyboardInterrupt):
        train(small(store), tmp_path / "run", Display(), is_stopped=is_stopped)
    assert checkpoint.steps(tmp_path / "run" / "checkpoints")[-1] == 7
    predictor = Predictor.load(tmp_path / "run", warn=pytest.fail)
    assert predictor.step == 5  # the only step that was validated
    assert predictor.blend_weight == SavedModel.open(tmp_path / "run").blend_weight(5)
    train(small(store, steps=5), tmp_path / "five", Display())
    assert predictor.blend_weight == Predictor.load(tmp_path / "five").blend_weight


def test_a_stop_in_the_last_step_is_still_a_stop(tmp_path, store):
    """Else a sweep that a user stops would go on with its next run."""
    calls = []

    def is_stopped() -> bool:
        calls.append(len(calls))
        return len(calls) == 12

    with pytest.raises(KeyboardInterrupt):
        train(small(store), tmp_path / "run", Display(), is_stopped=is_stopped)
    assert train(small(store), tmp_path / "run", Display())["step"] == 12


def test_a_group_that_makes_way_leaves_a_checkpoint_and_says_why(tmp_path, store):
    run, calls = tmp_path / "run", []

    def regroup() -> Regroup | None:
        calls.append(len(calls))
        return Regroup("preemption", "node a is to be taken away") if len(calls) >= 7 else None

    with open_run(small(store), run, Display()) as config:
        with pytest.raises(Regrouping, match="node a is to be taken away"):
            train(config, run, Display(), communicator=Communicator(), regroup=regroup)
        assert checkpoint.steps(run / "checkpoints")[-1] == 7
        train(config, run, Display(), communicator=Communicator())
    train(small(store), tmp_path / "undisturbed", Display())
    assert_same(final_state(run), final_state(tmp_path / "undisturbed"))
    events = [(e.kind, e.step) for e in History(run).events() if e.kind != "checkpoint"]
    assert events == [("start", 0), ("preemption", 7), ("restart", 7), ("done", 12)]


def test_a_stop_counts_more_and_in_the_last_step_nobody_makes_way(tmp_path, store):
    regroup = Regroup("growth", "there is room")
    with pytest.raises(KeyboardInterrupt):
        train(
            small(store), tmp_path / "run", Display(),
            is_stopped=lambda: True, regroup=lambda: regroup,
        )  # fmt: skip
    (step,) = checkpoint.steps(tmp_path / "run" / "checkpoints")
    last = small(store, steps=step + 1)
    assert train(last, tmp_path / "run", Display(), regroup=lambda: regroup)["step"] == step + 1


def test_where_no_group_is_more_difficult_training_is_as_with_uniform_weights(
    store, tmp_path, capsys
):
    """What users rate in this log is drawn alike for all, so there is nothing to balance."""
    trained = {}
    for kind in ("balanced", "uniform"):
        config = replace(small(store), scheduler=SchedulerConfig(kind=kind))
        train(config, tmp_path / kind, Display())
        shown = capsys.readouterr()
        assert ("all users weigh the same" in shown.out + shown.err) == (kind == "balanced")
        worker = Predictor.load(tmp_path / kind).model.worker
        trained[kind] = {**worker.layers, "rows": worker.table.weight}
    for name, tensor in trained["balanced"].items():
        assert torch.equal(tensor, trained["uniform"][name]), name


def test_a_stop_in_the_last_step_is_said_and_the_run_is_complete(tmp_path, store):
    display, run = Lines(), tmp_path / "run"
    save = loop.Training._save

    def stopping(training, step, tracker):
        save(training, step, tracker)
        if step == 12:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Training, "_save", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(small(store), run, display)
    assert f"stopped in the last step: {run} is complete" in display.lines
    assert json.loads((run / "metrics.json").read_text())["step"] == 12
    assert Predictor.load(run, warn=pytest.fail).step > 0
