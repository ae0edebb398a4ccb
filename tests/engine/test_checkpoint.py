"""A checkpoint appears whole or not at all, and a damaged one is never loaded."""

import hashlib
import json
import pickle
import shutil

import pytest
import torch

from greatmeta_dist.engine import checkpoint
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.errors import InputError


def write(folder, step: int):
    dense = {"theta.a": torch.full((2, 3), float(step)), "adam.step": torch.tensor(float(step))}
    rows = {"rows": torch.arange(12.0).view(6, 2) + step, "num_steps": torch.tensor(step)}
    users = {"visits": torch.arange(3)}
    blocks = {"rows": checkpoint.Block(rows, 0, 6), "users": checkpoint.Block(users, 0, 3)}
    writer = checkpoint.Writer(folder, Communicator(), keep=10)
    writer.save(step, dense, blocks, {"best": {"step": step}})
    writer.wait()
    return folder / f"step-{step:09d}"


def test_round_trip_over_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "ENTRIES_PER_FILE", 4)
    path = write(tmp_path, 7)
    assert sorted(p.name for p in path.glob("rows-*")) == [
        "rows-000000000000.safetensors",
        "rows-000000000004.safetensors",
    ]
    found = checkpoint.load(tmp_path, 7)
    assert found is not None
    assert torch.equal(found.tables["rows"]["rows"], torch.arange(12.0).view(6, 2) + 7)
    assert found.tables["rows"]["num_steps"] == 7
    assert torch.equal(found.tables["users"]["visits"], torch.arange(3))
    assert torch.equal(found.dense["theta.a"], torch.full((2, 3), 7.0))
    assert found.state["best"] == {"step": 7}


@pytest.mark.parametrize("part", [range(6), range(1, 5), range(4, 9), range(3, 3)])
def test_a_part_of_a_table_reads_from_whichever_files_hold_it(tmp_path, monkeypatch, part):
    monkeypatch.setattr(checkpoint, "ENTRIES_PER_FILE", 2)
    write(tmp_path, 7)
    found = checkpoint.load(tmp_path, 7, wanted={"rows": part})
    assert found is not None
    assert found.tables.keys() == {"rows"}
    whole = torch.arange(12.0).view(6, 2) + 7
    assert torch.equal(found.tables["rows"]["rows"], whole[part.start : part.stop])


def truncate(path):
    data = (path / "dense.safetensors").read_bytes()
    (path / "dense.safetensors").write_bytes(data[: len(data) // 2])


def flip_bit(path):
    data = bytearray((path / "rows-000000000000.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "rows-000000000000.safetensors").write_bytes(data)


def lose_manifest(path):
    (path / "manifest.json").unlink()


def lose_file(path):
    (path / "rows-000000000000.safetensors").unlink()


def put_a_pickle(path):
    (path / "dense.safetensors").write_bytes(pickle.dumps({"theta.a": 1}))


def garble_manifest(path):
    (path / "manifest.json").write_text("[1, 2")


@pytest.mark.parametrize(
    "damage", [truncate, flip_bit, lose_manifest, lose_file, put_a_pickle, garble_manifest]
)
def test_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path, damage):
    write(tmp_path, 1)
    damage(write(tmp_path, 2))
    found, skipped = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert (found.step, skipped) == (1, [2])


def test_half_written_folder_is_not_a_checkpoint(tmp_path):
    write(tmp_path, 1)
    shutil.copytree(tmp_path / "step-000000001", tmp_path / ".partial-step-000000002")
    found, skipped = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert (found.step, skipped) == (1, [])


def test_unwritable_disk_is_reported_and_earlier_checkpoints_stay(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(RuntimeError, match="No space left on device"):
        write(tmp_path, 2)
    assert checkpoint.steps(tmp_path) == [1]
    assert checkpoint.load(tmp_path, 1) is not None
    assert not list(tmp_path.glob(".partial*"))


def test_prune_keeps_the_newest_and_the_best(tmp_path):
    for step in range(1, 7):
        write(tmp_path, step)
    checkpoint.prune(tmp_path, upto=6, keep=2, besides=3)
    assert checkpoint.steps(tmp_path) == [3, 5, 6]


def test_what_follows_damaged_checkpoints_is_kept(tmp_path):
    for step in (1, 5, 6):
        path = write(tmp_path, step)
        if step > 1:
            truncate(path)
    write(tmp_path, 2)
    checkpoint.prune(tmp_path, upto=2, keep=1, besides=None)
    assert checkpoint.steps(tmp_path) == [2, 5, 6]
    found, skipped = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert (found.step, skipped) == (2, [6, 5])


def test_checkpoint_of_another_version_is_named_and_not_called_damaged(tmp_path):
    path = write(tmp_path, 1)
    state = json.loads((path / "state.json").read_text())
    del state["format_version"]
    (path / "state.json").write_text(json.dumps(state))
    hashes = json.loads((path / "manifest.json").read_text())
    hashes["state.json"] = hashlib.sha256((path / "state.json").read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(hashes))
    with pytest.raises(InputError, match=r"format 1, and this version reads format 2; start a new"):
        checkpoint.load_latest(tmp_path)
