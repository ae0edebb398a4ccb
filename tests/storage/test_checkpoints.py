"""A checkpoint on an object store is there once its manifest is, and not before."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from small_training import Lines, assert_same, final_state

from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.engine.checkpoint_objects import copy_of, fetch
from greatmeta_dist.engine.checkpoint_writer import CheckpointWriter
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.launch.local import launch
from greatmeta_dist.storage.local_copy import local_folder
from greatmeta_dist.storage.objects import ObjectFolder
from greatmeta_dist.training.run_copy import folder_to_train


def objects(url: str, step: int) -> list[str]:
    return sorted(ObjectFolder(url).files(f"checkpoints/{checkpoint.folder_name(step)}"))


def steps(url: str) -> list[int]:
    return checkpoint.steps(local_folder(url, use="test") / "checkpoints")


def state_of(url: str) -> dict:
    return final_state(local_folder(url, use="test"))


def ended_after(whole: str, url: str, step: int) -> ObjectFolder:
    """A run that was ended after a step: the objects of a whole one, without newer checkpoints."""
    origin, copy = ObjectFolder(whole), ObjectFolder(url)
    newer = [checkpoint.folder_name(later) for later in steps(whole) if later > step]
    for name in origin.files():
        if name != "metrics.json" and not any(f"/{folder}/" in name for folder in newer):
            copy.write(name, origin.read(name))
    return copy


def test_a_half_uploaded_checkpoint_is_passed_over_and_then_deleted(s3, training, whole):
    url = f"{s3}/checkpoints/half"
    origin = ended_after(whole, url, 8)
    for name in objects(url, 8):
        if not name.endswith("manifest.json"):
            origin.write(name.replace("000000008", "000000010"), origin.read(name))
    assert steps(url) == [4, 8]
    display = Lines()
    launch(training, url, display)
    assert any("after step 8" in line for line in display.lines)
    assert not objects(url, 10)
    assert_same(state_of(url), state_of(whole))


def test_damaged_checkpoints_are_skipped_and_an_upload_that_fails_leaves_the_one_before(
    s3, training, whole, empty_cache, monkeypatch
):
    url = f"{s3}/checkpoints/damaged"
    origin = ended_after(whole, url, 12)
    for step in (8, 12):
        (rows,) = [name for name in objects(url, step) if "/rows-" in name]
        if step == 8:
            origin.delete(rows)
        else:
            content = bytearray(origin.read(rows))
            content[-1] ^= 1
            origin.write(rows, bytes(content))
    manifest = f"checkpoints/{checkpoint.folder_name(8)}/manifest.json"
    before, upload = origin.read(manifest), ObjectFolder.upload

    def failing_upload(self, path, name):
        if "step-000000008" in name and "dense" in name:
            raise FileNotFoundError(2, "the connection broke")
        upload(self, path, name)

    display = Lines()
    with monkeypatch.context() as patch:
        patch.setattr(ObjectFolder, "upload", failing_upload)
        with pytest.raises(RuntimeError, match=r"cannot write the checkpoint .*mend that and run"):
            launch(training, url, display)
    for step in (8, 12):
        assert any(f"checkpoint of step {step} is damaged" in line for line in display.lines)
    assert any("after step 4" in line for line in display.lines)
    assert origin.read(manifest) == before
    newest, skipped = checkpoint.load_latest(local_folder(url, use="test") / "checkpoints")
    assert newest is not None
    assert (newest.step, skipped) == (4, [12, 8])
    launch(training, url, Lines())
    assert_same(state_of(url), state_of(whole))


def test_a_damaged_copy_on_this_machine_is_fetched_again(whole, empty_cache):
    expected = state_of(whole)
    folder = local_folder(whole, use="test") / "checkpoints" / checkpoint.folder_name(12)
    for path in folder.iterdir():
        path.unlink()  # ``expected`` is a view of it
        path.write_bytes(b"damaged")
    assert_same(state_of(whole), expected)


def test_a_worker_fetches_only_files_with_entries_that_it_holds(s3, empty_cache):
    origin = ObjectFolder(f"{s3}/checkpoints/parts")
    hashes = {}
    for first in (0, 10, 20):
        name = f"token/rows-{first:012d}.safetensors"
        origin.write(f"checkpoints/step-000000001/{name}", b"x")
        hashes[name] = hashlib.sha256(b"x").hexdigest()
    origin.write("checkpoints/step-000000001/manifest.json", json.dumps(hashes).encode())
    folder = local_folder(origin.url) / "checkpoints"
    copy = copy_of(folder)
    assert copy is not None
    fetched = fetch(copy, folder / "step-000000001", {"rows": range(12, 20)})
    assert list(fetched) == ["rows-000000000010.safetensors"]
    assert len(list(folder.rglob("*.safetensors"))) == 1


def test_a_group_that_was_taken_for_dead_commits_nothing_more(s3, empty_cache):
    folder = local_folder(f"{s3}/checkpoints/groups") / "checkpoints"
    folder.mkdir(parents=True)
    old, new = (CheckpointWriter.open(folder, Communicator(), keep=2) for _ in range(2))
    new.save(1, {"a": torch.ones(1)}, {}, {})
    new.wait()
    old.save(2, {"a": torch.ones(1)}, {}, {})
    with pytest.raises(RuntimeError, match=r"another group of workers writes this run"):
        old.wait()
    assert checkpoint.steps(folder) == [1]


def test_two_workers_write_one_and_any_number_reads_it(s3, training, whole):
    url = f"{s3}/checkpoints/workers"
    origin = ended_after(whole, url, 4)
    two = replace(training, cluster=ClusterConfig(workers=2))
    launch(replace(two, train=replace(training.train, steps=8)), url, Lines())
    assert steps(url) == [4, 8]
    launch(training, url, Lines())
    assert_same(state_of(url), state_of(whole))
    assert not [name for name in origin.files() if "part-" in name]
    assert folder_to_train(url).exists()
