"""Processes that torchrun started train together."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from group_training import config_for, num_workers

from benchmarks.chaos import digest
from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError
from greatmeta_dist.launch.local import launch
from greatmeta_dist.predict import Predictor
from greatmeta_dist.training.prior_cache import cache_folder

TORCHRUN = [
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"
]  # fmt: skip


@pytest.mark.slow
def test_torchrun_s_processes_give_the_same_bits(uneven, tmp_path):
    options = ("train.users_per_batch=8", "train.steps=12")
    launch(config_for(uneven, 1, *options), tmp_path / "alone", Display())
    words = [f"store={uneven}", f"run={tmp_path / 'run'}", "train.log_every=1", *options]
    for steps in (["train.steps=6"], ["train.steps=12"]):  # the second one resumes
        command = ["-m", "greatmeta_dist", "train", *words, *steps]
        subprocess.run([*TORCHRUN, *command], check=True, timeout=240)
    assert num_workers(tmp_path / "run") == 2
    assert digest(tmp_path / "run") == digest(tmp_path / "alone")


def test_processes_that_are_no_power_of_two_are_refused(uneven, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match=r"torchrun started 3 processes; .* take 2"):
        launch(config_for(uneven, 1), tmp_path / "run", Display())


SLOW_FIT = """
import sys, time
from datetime import timedelta
from greatmeta_dist.engine import communicator

communicator.START_PATIENCE = timedelta(seconds=12)

from greatmeta_dist.__main__ import main
from greatmeta_dist.training import prior_cache

seconds = int(sys.argv.pop())
fit = prior_cache.fit_priors

def slow_fit(rows, options, progress):
    for _ in range(10 * seconds):
        time.sleep(0.1)
        progress("slowly", 0)
    return fit(rows, options, progress)

prior_cache.fit_priors = slow_fit
sys.exit(main())
"""
"""``greatmeta`` with a fit that takes some seconds more, and less patience with silent workers."""


@pytest.fixture
def slow_fit(tmp_path) -> Path:
    path = tmp_path / "slow_fit.py"
    path.write_text(SLOW_FIT)
    return path


@pytest.mark.slow
def test_the_other_processes_wait_for_priors_longer_than_their_patience(uneven, tmp_path, slow_fit):
    shutil.rmtree(cache_folder(uneven), ignore_errors=True)
    words = ["train", f"store={uneven}", f"run={tmp_path / 'run'}"]
    words += ["train.users_per_batch=8", "train.steps=2"]
    subprocess.run([*TORCHRUN, str(slow_fit), *words, "24"], check=True, timeout=240)
    assert num_workers(tmp_path / "run") == 2
    assert Predictor.load(tmp_path / "run", warn=pytest.fail).step == 2


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_priors_are_fitted_ends_all_processes(uneven, tmp_path, slow_fit, stop):
    shutil.rmtree(cache_folder(uneven), ignore_errors=True)
    run = tmp_path / "run"
    words = ["train", f"store={uneven}", f"run={run}", "train.users_per_batch=8", "train.steps=2"]
    process = subprocess.Popen([*TORCHRUN, str(slow_fit), *words, "100"])
    deadline = time.monotonic() + 120
    while not list(cache_folder(uneven).glob(".partial*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(stop)
    assert process.wait(timeout=60) != 0
    assert not list(cache_folder(uneven).glob(".partial*"))
    assert not list(run.glob(".partial*"))


@pytest.mark.slow
def test_what_the_first_process_refuses_ends_all_with_its_exit_code(uneven, tmp_path):
    words = ["train", f"store={uneven}", f"run={uneven}", "train.users_per_batch=8"]
    done = subprocess.run(
        [*TORCHRUN, "-m", "greatmeta_dist", *words], capture_output=True, text=True, timeout=240
    )
    assert done.returncode != 0
    assert done.stderr.count("exists and is no run; choose an empty or new folder") == 1
    assert "exitcode  : 2" in done.stderr
    assert "lost a peer" not in done.stderr
