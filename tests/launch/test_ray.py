"""Workers on Ray train together, and Ray is needed for nothing else."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from group_training import scalars
from ray_head import SETTINGS, TRIES
from small_training import CHEAP_PRIORS

from benchmarks.chaos import Nodes, Training, digest, disturb
from greatmeta_dist.cli import main
from greatmeta_dist.training.history import History

DRAIN_S = 2.0
"""After so long Ray knows that a node which got SIGTERM is to be taken away."""
STARTED = "until terminated by a signal"
STEPS = 400
CHEAP = (
    f"train.steps={STEPS}",
    "train.checkpoint_every=1000",
    "train.valid_every=1000",
    "train.log_every=20",
    "train.lanes=4",
    "train.users_per_batch=4",
    "model.embedding_dim=4",
    "model.hidden=[8]",
    *CHEAP_PRIORS,
)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A cluster with one node of one CPU, besides a head of none."""
    with pytest.MonkeyPatch.context() as patch:
        # Ray Train looks after its workers more often than every two seconds.
        settings = SETTINGS | {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
        for name in settings.keys() - {"RAY_AUTH_MODE"}:
            patch.setenv(name, settings[name])
        nodes = Nodes(1)
        yield nodes
        nodes.close()


@contextmanager
def node_of(address: str, log: Path, *, num_cpus: int) -> Iterator[subprocess.Popen]:
    """A node as ``ray start`` makes it, with a process that receives SIGTERM."""
    words = ["start", "--block", f"--address={address}", f"--num-cpus={num_cpus}"]
    words += ["--object-store-memory=100000000"]
    for _ in range(TRIES):  # a busy machine may be too slow for Ray
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", *words], stdout=out, stderr=out
            )
        while not (is_up := STARTED in log.read_text()) and process.poll() is None:
            time.sleep(0.1)
        if is_up:
            break
    assert is_up, log.read_text()
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def paused(training: Training) -> Iterator[None]:
    """The first worker rests while in the block, so that training does not end meanwhile."""
    pid = training.workers()[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_group_grows_and_a_node_that_is_taken_away_costs_no_step(nodes, uneven, tmp_path):
    """One worker, then two where there is room for three, then one after SIGTERM to their node."""
    alone = Training.of(str(uneven), str(tmp_path / "alone"), tmp_path / "log", *CHEAP)
    assert main(alone.words[3:]) == 0
    options = ("cluster=ray", f"cluster.address={nodes.address}", "cluster.workers=[1,4]")
    options = (*options, "cluster.growth_interval_s=0", *CHEAP)
    training = Training.of(str(uneven), str(tmp_path / "run"), tmp_path / "log", *options)
    training.start()
    training.wait(lambda: len(training.workers()) == 1)
    with ExitStack() as stack:
        with paused(training):
            node = stack.enter_context(node_of(nodes.address, tmp_path / "node", num_cpus=2))
        training.wait(lambda: len(training.workers()) == 2)
        with paused(training):
            node.send_signal(signal.SIGTERM)
            time.sleep(DRAIN_S)
        training.wait(lambda: len(training.workers()) == 1)
        node.wait(60)
    assert training.end() == 0, training.log.read_text()
    assert digest(training.run) == digest(alone.run)
    events = [e for e in History(training.run).events() if e.kind != "checkpoint"]
    kinds = ["start", "growth", "restart", "preemption", "restart", "done"]
    assert [e.kind for e in events] == kinds, training.log.read_text()
    assert [events[k].step for k in (2, 4)] == [events[k].step for k in (1, 3)]
    assert "room for 2 workers" in events[1].text
    assert "to be taken away" in events[3].text
    losses = scalars(training.run)["train/loss"]
    assert losses == scalars(alone.run)["train/loss"]
    assert len(losses) == STEPS // 20


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_ray_coordinator_or_raylet_changes_nothing(nodes, undisturbed, tmp_path):
    kinds = ["ray coordinator", "raylet"]
    results = disturb(undisturbed, tmp_path, kinds, seed=2, tell=print, nodes=nodes)
    assert [r.kind for r in results if r.is_same] == kinds
    assert [r.workers for r in results] == [2, 1]


def test_without_ray_all_but_cluster_ray_works_and_that_says_what_to_do(uneven, tmp_path):
    words = ["train", f"store={uneven}", "train.users_per_batch=8", "train.steps=3"]
    # Importing a module that is None there fails as one that is not installed.
    program = (
        "import sys; sys.modules['ray'] = None\n"
        "from greatmeta_dist import cli; sys.exit(cli.main())"
    )

    def run(*more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", program, *words, *more], capture_output=True, text=True
        )

    refused = run(f"run={tmp_path / 'a'}", "cluster=ray", "cluster.workers=2")
    assert refused.returncode == 2
    assert "pip install 'ray[train]', or take cluster=local" in refused.stderr
    assert run(f"run={tmp_path / 'b'}", "cluster.workers=2").returncode == 0
