"""Commands run as jobs of a real Ray head, and each way in which they cannot is one line."""

import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_head import Head, ray_head

from greatmeta_dist.cli import main

SMALL = ("train.users_per_batch=8", "train.steps=8")


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as head:
        yield head


def one_line(done: subprocess.CompletedProcess) -> str:
    """The only line of an error."""
    (line,) = done.stderr.splitlines()
    assert line.startswith("greatmeta: ")
    assert "Traceback" not in done.stdout
    return line


@pytest.mark.timeout(400)
def test_a_training_is_submitted_followed_and_not_started_twice(head, uneven, tmp_path):
    words = ("train", f"store={uneven}", f"run={tmp_path / 'run'}", "cluster.workers=2", *SMALL)
    detached = head.submit(*words, options=("--detach",))
    assert detached.returncode == 0, detached.stderr
    assert "KiB" in detached.stdout
    assert "1 node sees store and run" in detached.stdout
    other = head.submit(*words, "train.seed=7")
    assert other.returncode == 2
    assert "is at work on" in one_line(other)
    followed = head.submit(*words)
    assert followed.returncode == 0, followed.stderr
    assert "following it" in followed.stdout
    assert "is at step 8" in followed.stdout
    assert not (tmp_path / "run" / ".ray").exists()
    listed = head.run("jobs", f"cluster.address={head.dashboard}").stdout.splitlines()
    mine = [line for line in listed if str(tmp_path / "run") in line]
    assert len(mine) == 1
    assert "SUCCEEDED" in mine[0]


def test_a_job_that_can_never_run_ends_with_code_2_and_says_why(head, uneven, tmp_path):
    done = head.submit("train", f"run={tmp_path / 'run'}", "store=/nowhere/store", *SMALL)
    assert done.returncode == 2
    unseen = "store=/nowhere/store/manifest.json is not seen by node"
    assert unseen in done.stdout.splitlines()[-1]
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_a_head_without_the_package_is_one_line(head, uneven, tmp_path):
    venv.create(tmp_path / "empty")
    python = f"submit.python={tmp_path / 'empty/bin/python'}"
    words = ("train", f"store={uneven}", f"run={tmp_path / 'run'}", *SMALL)
    done = head.submit(*words, options=(python,))
    assert done.returncode == 1
    assert "has no greatmeta_dist; install it on its nodes" in one_line(done)
    assert "No module" not in done.stdout


def test_a_job_that_is_stopped_ends_with_1_and_says_so(head, uneven, tmp_path):
    words = ("train", f"store={uneven}", f"run={tmp_path / 'run'}", "train.steps=100000")
    started = head.submit(*words, options=("--detach",))
    (job,) = [line.split()[1] for line in started.stdout.splitlines() if "is submitted" in line]
    address = f"cluster.address={head.dashboard}"
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/tensorboard").exists():
        assert time.monotonic() < deadline
        time.sleep(0.3)
    assert head.run("jobs", "stop", job, address).returncode == 0
    done = head.run("jobs", "follow", job, address)
    assert done.returncode == 1
    assert f"job {job} was stopped" in one_line(done)
    assert list((tmp_path / "run/checkpoints").iterdir())


def test_each_way_in_which_a_cluster_does_not_answer_is_one_line(
    head, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path))
    command = ("--", "train", "store=/shared/store", "run=/shared/run")

    def refused(address: str, *words: str) -> str:
        assert main(["submit", f"cluster.address={address}", *(words or command)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        return line

    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    assert "asks for a token; set RAY_AUTH_TOKEN" in refused(head.dashboard)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    assert "refuses the token in RAY_AUTH_TOKEN" in refused(head.dashboard)
    assert "is no Jobs API of Ray" in refused(f"http://{head.gcs}")
    assert "expected http://HOST:PORT" in refused(head.gcs)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert "nothing answers at" in refused(f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert "did you mean train.steps" in refused(head.dashboard, *command, "train.stepz=3")
    assert "run=runs/a is a relative path" in refused(
        head.dashboard, "--", "train", "store=/s", "run=runs/a"
    )


def test_a_training_says_in_one_line_that_its_token_is_wrong(
    head, uneven, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["train", f"store={uneven}", f"run={tmp_path / 'run'}", "cluster=ray"]

    def refused(address: str) -> str:
        assert main([*words, f"cluster.address={address}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    assert "asks for a token" in refused(head.gcs)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    assert "refuses the token" in refused(head.gcs)
    assert "submit this one: greatmeta submit" in refused(head.dashboard)
    assert "is no Ray cluster" in refused(head.dashboard.removeprefix("http://"))
    assert not (tmp_path / "run").exists()


def test_waiting_for_a_cluster_says_for_what_and_ends(head, uneven, tmp_path):
    lack = "waiting for the cluster to grow or to be free: 4 workers need 4 CPU, and it has 2"
    words = [
        "train", f"store={uneven}", "cluster=ray", f"cluster.address={head.gcs}",
        "cluster.workers=4", "train.users_per_batch=8",
    ]  # fmt: skip
    late = [*words, f"run={tmp_path / 'a'}", "cluster.wait_s=1"]
    patient = [*words, f"run={tmp_path / 'b'}"]
    # One process, since what takes its time is to import torch and Ray.
    program = f"""
import sys
from greatmeta_dist import cli
from greatmeta_dist.__main__ import main
sys.exit(main(lambda: 10 * cli.main({late!r}) + cli.main({patient!r})))
"""
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program],
        env=head.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for _ in (late, patient):
            while lack not in process.stdout.readline():
                assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        first, second = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 11
    assert first.startswith("greatmeta: waited 1 s for the cluster (cluster.wait_s)")
    assert second == "greatmeta: interrupted; run the same command again to go on"


def test_a_relative_run_in_a_job_is_refused(tmp_path, monkeypatch, capsys):
    folder = Path(tmp_path, "working_dir_files", "_ray_pkg_1")
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert main(["train", "store=/shared/store", "run=runs/a"]) == 2
    assert "store" in capsys.readouterr().err
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert main(["train", "store=/shared/store", "run=runs/a"]) == 2
    assert "this job starts in a folder that Ray deletes" in capsys.readouterr().err
