"""Processes of this machine train together, restart together, and say why where they cannot."""

import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from group_training import config_for
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.chaos import digest, disturb
from greatmeta_dist.cli import main
from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.display import Display
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.errors import InputError
from greatmeta_dist.launch.local import launch
from greatmeta_dist.predict import Predictor
from greatmeta_dist.training.history import STARTS, History
from greatmeta_dist.training.saved_model import SavedModel


def test_more_workers_than_lanes_are_refused(uneven, tmp_path):
    config = config_for(uneven, 4, "train.users_per_batch=8", "train.lanes=2")
    with pytest.raises(InputError, match="4 workers do not divide the users' 2 lanes"):
        launch(config, tmp_path / "run", Display())
    assert not (tmp_path / "run").exists()


def test_more_workers_than_gpus_are_refused(uneven, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=r"cluster.workers=2, and this machine has 1 GPUs"):
        launch(config_for(uneven, 2), tmp_path / "run", Display())
    with pytest.raises(InputError, match="workers cannot share a GPU"):
        ClusterConfig(gpus_per_worker=0.5)


@pytest.mark.parametrize("workers", [3, [1, 2], [4, 2], 0, "two"])
def test_impossible_workers_are_refused(workers):
    with pytest.raises(InputError, match=r"cluster.workers is"):
        ClusterConfig(workers=workers)


@pytest.mark.usefixtures("quick_start")
@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk_fails_with_a_message_and_leaves_the_last_checkpoint(uneven, tmp_path, workers):
    run = tmp_path / "run"
    words = [
        "train", f"store={uneven}", f"run={run}", "train.users_per_batch=8",
        f"cluster.workers={workers}", "train.valid_every=1000",
    ]  # fmt: skip
    assert main([*words, "train.steps=6"]) == 0
    before = digest(run)

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    failed = subprocess.run(
        [sys.executable, "-m", "greatmeta_dist", *words, "train.steps=12", "train.log_every=1000"],
        capture_output=True, text=True, preexec_fn=small_files, timeout=120,
    )  # fmt: skip
    assert failed.returncode == 1
    assert "cannot write the checkpoint" in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1
    assert digest(run) == before
    assert main([*words, "train.steps=12"]) == 0
    assert checkpoint.steps(run / "checkpoints")[-1] == 12


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_processes_change_nothing(undisturbed, tmp_path):
    kinds = ["worker", "coordinator", "driver"]
    results = disturb(undisturbed, tmp_path, kinds, seed=1, tell=print)
    assert [r.kind for r in results if r.is_same] == kinds
    for number, kind in enumerate(kinds):
        run = tmp_path / f"kill-{number}"
        history = History(run).events()
        deaths = [event.text for event in history if event.kind == "death"]
        assert ("worker 1 died of SIGKILL" in deaths) == (kind == "worker")
        first, *others = [event.kind for event in history if event.kind in STARTS]
        assert first == "start"
        assert set(others) <= {"restart"}  # none where it was killed before it began
        assert history[-1].kind == "done"
        curves = EventAccumulator(str(run / "tensorboard"), {"scalars": 0}).Reload()
        steps = [point.step for point in curves.Scalars("train/loss")]
        assert steps == sorted(set(steps))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_group_leaves_a_checkpoint_and_its_blend_weight(uneven, tmp_path, stop):
    run = tmp_path / "run"
    words = [
        sys.executable, "-m", "greatmeta_dist", "train", f"store={uneven}", f"run={run}",
        "train.users_per_batch=8", "cluster.workers=2", "train.valid_every=100000",
        "train.log_every=5", "train.checkpoint_every=100000", "train.steps=100000",
    ]  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not any(p.stat().st_size > 5000 for p in (run / "tensorboard").glob("*tfevents.[1-9]*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err == "greatmeta: interrupted; run the same command again to go on\n"
    (step,) = checkpoint.steps(run / "checkpoints")
    assert SavedModel.open(run).blend_weight(step) is not None
    assert Predictor.load(run, warn=pytest.fail).step == step
