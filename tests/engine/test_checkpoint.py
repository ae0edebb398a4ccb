"""A damaged checkpoint is never loaded, and a whole one reads back in any parts."""

import hashlib
import json
import pickle
import shutil

import pytest
import torch
from small_checkpoint import truncate_dense, write_checkpoint

from greatmeta_dist.engine import checkpoint, checkpoint_writer
from greatmeta_dist.errors import InputError


def test_round_trip_over_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_writer, "ENTRIES_PER_FILE", 4)
    path = write_checkpoint(tmp_path, 7)
    assert sorted(p.name for p in path.glob("rows-*")) == [
        "rows-000000000000.safetensors",
        "rows-000000000004.safetensors",
    ]
    loaded = checkpoint.load(tmp_path, 7)
    assert loaded is not None
    assert torch.equal(loaded.tables["rows"]["rows"], torch.arange(12.0).view(6, 2) + 7)
    assert loaded.tables["rows"]["num_steps"] == 7
    assert torch.equal(loaded.tables["users"]["visits"], torch.arange(3))
    assert torch.equal(loaded.dense["theta.a"], torch.full((2, 3), 7.0))
    assert loaded.state["best"] == {"step": 7}


@pytest.mark.parametrize("entries", [range(6), range(1, 5), range(4, 9), range(3, 3)])
def test_entries_of_a_table_read_from_whichever_files_hold_them(tmp_path, monkeypatch, entries):
    monkeypatch.setattr(checkpoint_writer, "ENTRIES_PER_FILE", 2)
    write_checkpoint(tmp_path, 7)
    loaded = checkpoint.load(tmp_path, 7, wanted={"rows": entries})
    assert loaded is not None
    assert loaded.tables.keys() == {"rows"}
    whole = torch.arange(12.0).view(6, 2) + 7
    assert torch.equal(loaded.tables["rows"]["rows"], whole[entries.start : entries.stop])


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


def empty_manifest(path):
    (path / "manifest.json").write_text("{}")


def shorten_manifest(path):
    """It lists no file of the table."""
    hashes = json.loads((path / "manifest.json").read_text())
    kept = {name: hash for name, hash in hashes.items() if not name.startswith("rows-")}
    (path / "manifest.json").write_text(json.dumps(kept))


@pytest.mark.parametrize(
    "damage",
    [
        truncate_dense,
        flip_bit,
        lose_manifest,
        lose_file,
        put_a_pickle,
        garble_manifest,
        empty_manifest,
        shorten_manifest,
    ],
)
def test_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path, damage):
    write_checkpoint(tmp_path, 1)
    damage(write_checkpoint(tmp_path, 2))
    loaded, skipped = checkpoint.load_latest(tmp_path)
    assert loaded is not None
    assert (loaded.step, skipped) == (1, [2])


def test_half_written_folder_is_not_a_checkpoint(tmp_path):
    write_checkpoint(tmp_path, 1)
    shutil.copytree(tmp_path / "step-000000001", tmp_path / ".partial-step-000000002")
    loaded, skipped = checkpoint.load_latest(tmp_path)
    assert loaded is not None
    assert (loaded.step, skipped) == (1, [])


def test_newest_state_is_that_of_the_newest_checkpoint_where_it_reads(tmp_path):
    assert checkpoint.newest_state(tmp_path) is None
    for step, state in ((1, '{"store": "a"}'), (2, '{"store": "b"}'), (3, '{"sto')):
        (tmp_path / f"step-{step:09d}").mkdir()
        (tmp_path / f"step-{step:09d}" / "state.json").write_text(state)
    assert checkpoint.newest_state(tmp_path) == {"store": "b"}


def test_checkpoint_of_another_version_is_named_and_not_called_damaged(tmp_path):
    path = write_checkpoint(tmp_path, 1)
    state = json.loads((path / "state.json").read_text())
    del state["format_version"]
    (path / "state.json").write_text(json.dumps(state))
    hashes = json.loads((path / "manifest.json").read_text())
    hashes["state.json"] = hashlib.sha256((path / "state.json").read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(hashes))
    with pytest.raises(InputError, match=r"format 1, and this version reads format 2; start a new"):
        checkpoint.load_latest(tmp_path)


def test_a_checkpoint_that_a_training_deletes_meanwhile_is_not_damaged(tmp_path, monkeypatch):
    for step in (1, 2):
        write_checkpoint(tmp_path, step)
    load = checkpoint.load

    def overtaken(folder, step, *rest, **options):
        if step == 2 and len(checkpoint.steps(folder)) == 2:
            write_checkpoint(tmp_path, 3)
            shutil.rmtree(tmp_path / checkpoint.folder_name(2))
        return load(folder, step, *rest, **options)

    monkeypatch.setattr(checkpoint, "load", overtaken)
    newest, skipped = checkpoint.load_latest(tmp_path)
    assert newest is not None
    assert (newest.step, skipped) == (3, [])


def test_a_folder_that_may_not_be_read_is_no_empty_one(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)
    with pytest.raises(PermissionError):
        checkpoint.steps(tmp_path)
    monkeypatch.undo()
    assert checkpoint.steps(tmp_path / "none") == []


@pytest.mark.parametrize("length", [1, 2, 3, 100])
def test_a_table_is_read_in_parts_of_any_length(tmp_path, monkeypatch, length):
    monkeypatch.setattr(checkpoint_writer, "ENTRIES_PER_FILE", 4)
    write_checkpoint(tmp_path, 7)
    parts = list(checkpoint.read_parts(tmp_path, 7, "rows", entries_per_part=length))
    whole = torch.arange(12.0).view(6, 2) + 7
    assert torch.equal(torch.cat([part["rows"] for _, part in parts]), whole)
    for first, part in parts:
        assert torch.equal(part["rows"], whole[first : first + len(part["rows"])])
        assert len(part["rows"]) <= length
        assert part["num_steps"] == 7
