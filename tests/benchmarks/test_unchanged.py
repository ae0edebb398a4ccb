"""What the benchmark of a refactor calls the same."""

import json

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from benchmarks.unchanged.compare import compare_runs
from greatmeta_dist.engine.checkpoint import Block
from greatmeta_dist.engine.checkpoint_writer import CheckpointWriter
from greatmeta_dist.engine.communicator import Communicator


def write_run(folder, *, bias=0.5, row=1.0, loss=0.25, rmse=0.9, name="theta.bias"):
    """A run of two steps with a dense tensor, a table, losses and an evaluation."""
    writer = CheckpointWriter.open(folder / "checkpoints", Communicator(), keep=1)
    rows = {"weight": torch.full((3, 2), row)}
    writer.save(2, {name: torch.tensor([bias])}, {"rows": Block(rows, 0, 3)}, {"best": None})
    writer.wait()
    with SummaryWriter(str(folder / "tensorboard")) as events:
        for step in (1, 2):
            events.add_scalar("train/loss", loss, step)
    scenarios = {"user_cold": {"models": {"adapted": {"rmse": rmse}}}}
    (folder / "evaluation.json").write_text(json.dumps({"scenarios": scenarios}))
    return folder


def test_equal_runs_have_no_difference(tmp_path):
    difference = compare_runs(write_run(tmp_path / "a"), write_run(tmp_path / "b"), 2)
    assert difference.is_none
    assert difference.tensors == 2


@pytest.mark.parametrize(
    "change, unequal, largest",
    [
        ({"bias": 0.75}, ["theta.bias"], 0.25),
        ({"row": 1.5}, ["rows/weight"], 0.5),
        ({"name": "theta.other"}, ["theta.bias", "theta.other"], 0.0),
        ({"loss": 0.26}, [], 0.0),
        ({"rmse": 0.91}, [], 0.0),
    ],
)
def test_any_difference_is_found(tmp_path, change, unequal, largest):
    runs = write_run(tmp_path / "a"), write_run(tmp_path / "b", **change)
    difference = compare_runs(*runs, 2)
    assert not difference.is_none
    assert difference.unequal == unequal
    assert difference.largest == largest
    assert difference.are_losses_equal == ("loss" not in change)
    assert difference.rmse == pytest.approx(0.01 if "rmse" in change else 0)


def test_a_run_without_the_checkpoint_is_an_error(tmp_path):
    write_run(tmp_path / "a")
    with pytest.raises(RuntimeError, match="no whole checkpoint of step 3"):
        compare_runs(tmp_path / "a", tmp_path / "a", 3)
