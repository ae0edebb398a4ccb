"""A checkpoint appears whole or not at all, and the newest and the best stay."""

import pytest
import torch
from small_checkpoint import truncate_dense, write_checkpoint
from threaded_workers import run_workers

from greatmeta_dist.engine import checkpoint, checkpoint_writer
from greatmeta_dist.engine.checkpoint import Block
from greatmeta_dist.engine.checkpoint_writer import CheckpointWriter, prune


def test_unwritable_disk_is_reported_and_earlier_checkpoints_stay(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_writer, "save_file", full)
    with pytest.raises(RuntimeError, match="No space left on device"):
        write_checkpoint(tmp_path, 2)
    assert checkpoint.steps(tmp_path) == [1]
    assert checkpoint.load(tmp_path, 1) is not None
    assert not list(tmp_path.glob(".partial*"))


def test_opening_a_writer_deletes_what_was_left_unfinished(tmp_path):
    (tmp_path / ".partial-abc-step-000000002").mkdir()
    write_checkpoint(tmp_path, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000001"]


def test_two_workers_write_one_checkpoint_that_one_worker_reads(tmp_path):
    def write(communicator):
        rank = communicator.rank
        entries = torch.arange(5)[:3] if rank == 0 else torch.arange(5)[3:]
        writer = CheckpointWriter.open(tmp_path, communicator, keep=1)
        for step in (1, 2):
            dense = {"a": torch.tensor([float(step)])} if rank == 0 else {}
            blocks = {"rows": Block({"rows": entries + step}, 3 * rank, 5)}
            writer.save(step, dense, blocks, {"kept": step})
        writer.wait()

    run_workers(2, write)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000002"]
    assert len(list((tmp_path / "step-000000002").glob("rows-*"))) == 2
    assert not list((tmp_path / "step-000000002").glob("part-*"))
    loaded = checkpoint.load(tmp_path, 2)
    assert loaded is not None
    assert loaded.tables["rows"]["rows"].tolist() == [2, 3, 4, 5, 6]
    assert loaded.dense["a"].tolist() == [2.0]
    assert loaded.state["kept"] == 2


def test_prune_keeps_the_newest_and_the_best(tmp_path):
    for step in range(1, 7):
        write_checkpoint(tmp_path, step)
    prune(tmp_path, up_to=6, keep=2, best=3)
    assert checkpoint.steps(tmp_path) == [3, 5, 6]


def test_what_follows_damaged_checkpoints_is_kept(tmp_path):
    for step in (1, 5, 6):
        path = write_checkpoint(tmp_path, step)
        if step > 1:
            truncate_dense(path)
    write_checkpoint(tmp_path, 2)
    prune(tmp_path, up_to=2, keep=1, best=None)
    assert checkpoint.steps(tmp_path) == [2, 5, 6]
    loaded, skipped = checkpoint.load_latest(tmp_path)
    assert loaded is not None
    assert (loaded.step, skipped) == (2, [6, 5])
