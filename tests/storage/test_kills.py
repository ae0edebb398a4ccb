"""Kills change no bit of a run on an object store, as on disk."""

import os
import signal

import pytest
from small_training import CHEAP_PRIORS

from benchmarks.chaos import Training, digest
from greatmeta_dist.cli import main
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.storage.objects import ObjectFolder

SMALL = (
    "train.steps=60",
    "train.checkpoint_every=4",
    "train.valid_every=60",
    "model.embedding_dim=4",
    "model.hidden=[8]",
    *CHEAP_PRIORS,
)


@pytest.mark.slow
def test_killed_processes_change_nothing(s3, store, local_store, tmp_path):
    """The coordinator first, then the driver while a checkpoint is written; one worker ends it."""
    url, log = f"{s3}/kills/run", tmp_path / "log"
    training = Training.of(store, url, log, *SMALL, "cluster.workers=2")
    checkpoints = training.run / "checkpoints"

    def is_partial() -> bool:
        folders = {name.split("/")[1] for name in ObjectFolder(url).files("checkpoints")}
        steps = {int(name.removeprefix("step-")) for name in folders if name.startswith("step-")}
        return not steps <= set(checkpoint.steps(checkpoints))

    training.start()
    before = training.wait(training.workers)
    training.wait(lambda: checkpoint.steps(checkpoints))
    os.kill(before[0]["pid"], signal.SIGKILL)
    step = max(checkpoint.steps(checkpoints))
    training.wait(lambda: training.workers() != before)
    training.wait(lambda: max(checkpoint.steps(checkpoints)) > step)
    training.wait(is_partial)
    training.process.kill()
    training.process.wait()
    assert f"after step {step}" in log.read_text()
    assert main(Training.of(store, url, log, *SMALL).words[3:]) == 0
    undisturbed = Training.of(str(local_store), str(tmp_path / "undisturbed"), log, *SMALL)
    assert main(undisturbed.words[3:]) == 0
    assert digest(training.run) == digest(undisturbed.run)
    assert not [name for name in ObjectFolder(url).files() if name.startswith(".")]
