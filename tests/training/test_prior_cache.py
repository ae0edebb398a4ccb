"""Priors are fitted once for a store and its options, whoever asks and whoever dies."""

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small_training import Lines, prepare_store, small

from greatmeta_dist.config import PriorsConfig
from greatmeta_dist.display import Display
from greatmeta_dist.predict import Predictor
from greatmeta_dist.training import prior_cache
from greatmeta_dist.training.loop import train
from greatmeta_dist.training.prior_cache import cache_folder, holds_priors

SLOW_FIT = """
import os, sys, time
from greatmeta_dist.cli import main
from greatmeta_dist.training import prior_cache

fit, marker, seconds = prior_cache.fit_priors, sys.argv[1], float(sys.argv[2])

def slow_fit(rows, options, progress):
    with open(marker, "a") as file:
        print(os.getpid(), file=file)
    for _ in range(int(10 * seconds)):
        time.sleep(0.1)
        progress("slowly", 0)
    return fit(rows, options, progress)

prior_cache.fit_priors = slow_fit
sys.exit(main(sys.argv[3:]))
"""
"""``greatmeta`` with fits that leave a line in a marker file, and take some seconds more."""
TINY = ["train.steps=2", "train.users_per_batch=8"]


@pytest.fixture
def fresh(tmp_path) -> Path:
    """A store whose priors nobody has fitted."""
    return prepare_store(tmp_path)


@pytest.fixture
def fits(monkeypatch) -> list[int]:
    """Grows by one with every fit."""
    fit, calls = prior_cache.fit_priors, []
    monkeypatch.setattr(
        prior_cache, "fit_priors", lambda *arguments: calls.append(1) or fit(*arguments)
    )
    return calls


def start(marker: Path, seconds: float, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SLOW_FIT, str(marker), str(seconds), "train", *words, *TINY],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_fit(marker: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not (marker.exists() and marker.read_text()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def partial(*folders: Path) -> list[Path]:
    """What is unfinished in the folders."""
    return [p for folder in folders for p in folder.rglob(".partial*")]


def test_other_options_of_the_model_do_not_fit_again_and_other_options_of_priors_do(
    tmp_path, fresh, fits
):
    config = small(fresh, steps=2)
    train(config, tmp_path / "a", Display())
    train(replace(config, model=replace(config.model, embedding_dim=8)), tmp_path / "b", Display())
    assert len(fits) == 1
    train(replace(config, priors=PriorsConfig(seed=1)), tmp_path / "c", Display())
    assert len(fits) == 2
    train(replace(config, priors=PriorsConfig(seed=1)), tmp_path / "d", Display())
    train(small(fresh, steps=4), tmp_path / "a", Display())
    assert len(fits) == 2
    assert len([p for p in cache_folder(fresh).iterdir() if p.is_dir()]) == 2


def test_two_trainings_at_once_neither_mix_nor_both_fit(tmp_path, fresh):
    marker, runs = tmp_path / "marker", [tmp_path / "a", tmp_path / "b"]
    processes = [start(marker, 5, f"store={fresh}", f"run={run}") for run in runs]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(marker.read_text().splitlines()) == 1
    is_fitting = ["fit priors" in out for out, _ in outputs]
    is_waiting = ["waiting for another training, which fits the same" in out for out, _ in outputs]
    assert sorted(is_fitting) == [False, True]
    assert is_waiting == is_fitting[::-1]
    assert files(runs[0] / "model" / "priors") == files(runs[1] / "model" / "priors")
    assert not partial(cache_folder(fresh), *runs)


def test_a_fit_that_is_killed_leaves_nothing_half(tmp_path, fresh, fits):
    run = tmp_path / "run"
    process = start(tmp_path / "marker", 60, f"store={fresh}", f"run={run}")
    wait_for_fit(tmp_path / "marker", process)
    process.kill()
    process.communicate()
    assert not [p for p in cache_folder(fresh).glob("[!.]*") if p.is_dir()]
    assert train(small(fresh, steps=2), run, Display())["step"] == 2
    assert len(fits) == 1
    assert not partial(cache_folder(fresh), run)
    assert Predictor.load(run).step == 2


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_fit_that_is_stopped_ends_at_once_and_leaves_nothing(tmp_path, fresh, stop):
    processes = []
    for name in ("fits", "waits"):
        process = start(tmp_path / "marker", 60, f"store={fresh}", f"run={tmp_path / name}")
        processes.append(process)
        wait_for_fit(tmp_path / "marker", process)
    (line,) = [next(line for line in processes[1].stdout if "waiting" in line)]
    assert "which fits the same priors" in line
    for process in reversed(processes):
        start_s = time.monotonic()
        process.send_signal(stop)
        _, err = process.communicate(timeout=20)
        assert time.monotonic() - start_s < 10
        assert process.returncode == 1
        assert err == "greatmeta: interrupted; run the same command again to go on\n"
    assert not partial(cache_folder(fresh), tmp_path / "fits", tmp_path / "waits")
    assert [p.name for p in (tmp_path / "fits").iterdir()] == [".lock"]
    assert train(small(fresh, steps=2), tmp_path / "fits", Display())["step"] == 2


def test_where_the_folder_beside_the_store_cannot_be_written_a_run_fits_for_itself(
    tmp_path, fresh, fits
):
    cache_folder(fresh).write_text("a file is in the way")
    for number, name in enumerate(("a", "b"), 1):
        display = Lines()
        train(small(fresh, steps=2), tmp_path / name, display)
        assert len(fits) == number
        (line,) = [line for line in display.lines if "priors" in line]
        assert line.startswith("priors are fitted for this run alone, because")
        assert f"{cache_folder(fresh)} cannot be written" in line
    assert files(tmp_path / "a" / "model" / "priors") == files(tmp_path / "b" / "model" / "priors")
    shutil.rmtree(fresh)
    assert Predictor.load(tmp_path / "a").step == 2


def test_a_damaged_cache_is_fitted_anew(tmp_path, fresh, fits):
    train(small(fresh, steps=2), tmp_path / "a", Display())
    (cached,) = [p for p in cache_folder(fresh).iterdir() if p.is_dir()]
    path = cached / "bias.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert not holds_priors(cached, cached.name)
    train(small(fresh, steps=2), tmp_path / "b", Display())
    assert len(fits) == 2
    assert holds_priors(cached, cached.name)
    assert files(tmp_path / "a" / "model" / "priors") == files(tmp_path / "b" / "model" / "priors")


def test_a_store_is_left_as_it_was(tmp_path, fresh):
    before = sorted(fresh.rglob("*"))
    train(small(fresh, steps=2), tmp_path / "run", Display())
    assert sorted(fresh.rglob("*")) == before
