"""A checkpoint on an object store is there once its manifest is, and not before."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from small_training import Lines, assert_same, final_state, small

from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.engine.checkpoint_objects import copy_of, fetch
from greatmeta_dist.engine.checkpoint_writer import CheckpointWriter
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.launch.local import launch
from greatmeta_dist.storage.local_copy import local_folder
from greatmeta_dist.storage.objects import ObjectFolder
from greatmeta_dist.training.run_copy import folder_to_train


@pytest.fixture(scope="module")
def whole(s3, store) -> str:
    """A run of 12 steps, with checkpoints at 4, 8 and 12."""
    url = f"{s3}/checkpoints/whole"
    launch(small(store), url, Lines())
    return url


def objects(url: str, step: int) -> list[str]:
    return sorted(ObjectFolder(url).files(f"checkpoints/{checkpoint.folder_name(step)}"))


def steps(url: str) -> list[int]:
    return checkpoint.steps(local_folder(url, use="test") / "checkpoints")


def state_of(url: str) -> dict:
    return final_state(local_folder(url, use="test"))


def test_a_half_uploaded_checkpoint_is_passed_over_and_then_deleted(s3, store, whole):
    url = f"{s3}/checkpoints/half"
    launch(small(store, steps=8), url, Lines())
    origin = ObjectFolder(url)
    for name in objects(url, 8):
        if not name.endswith("manifest.json"):
            origin.write(name.replace("000000008", "000000010"), origin.read(name))
    assert steps(url)[-1] == 8
    display = Lines()
    launch(small(store), url, display)
    assert any("after step 8" in line for line in display.lines)
    assert not objects(url, 10)
    assert_same(state_of(url), state_of(whole))


def test_an_upload_that_fails_leaves_the_checkpoint_before(s3, store, whole, monkeypatch):
    url = f"{s3}/checkpoints/failed"
    launch(small(store, steps=4), url, Lines())
    upload = ObjectFolder.upload

    def failing_upload(self, path, name):
        if "step-000000008" in name and "dense" in name:
            raise FileNotFoundError(2, "the connection broke")
        upload(self, path, name)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectFolder, "upload", failing_upload)
        with pytest.raises(RuntimeError, match=r"cannot write the checkpoint .*mend that and run"):
            launch(small(store), url, Lines())
    assert steps(url) == [4]
    launch(small(store), url, Lines())
    assert_same(state_of(url), state_of(whole))


@pytest.mark.parametrize("fault", ["changed", "missing"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(s3, store, whole, empty_cache, fault):
    url = f"{s3}/checkpoints/{fault}"
    launch(small(store, steps=8), url, Lines())
    origin = ObjectFolder(url)
    (rows,) = [name for name in objects(url, 8) if "/rows-" in name]
    if fault == "missing":
        origin.delete(rows)
    else:
        content = bytearray(origin.read(rows))
        content[-1] ^= 1
        origin.write(rows, bytes(content))
    display = Lines()
    launch(small(store), url, display)
    assert any("checkpoint of step 8 is damaged" in line for line in display.lines)
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


def test_two_workers_write_one_and_any_number_reads_it(s3, store, whole):
    config = small(store, lanes=2)
    urls = [f"{s3}/checkpoints/workers-{k}" for k in (1, 2)]
    launch(config, urls[0], Lines())
    two = replace(config, cluster=ClusterConfig(workers=2))
    launch(replace(two, train=replace(config.train, steps=8)), urls[1], Lines())
    launch(config, urls[1], Lines())
    assert_same(state_of(urls[1]), state_of(urls[0]))
    assert not [name for name in ObjectFolder(urls[1]).files() if "part-" in name]
    assert folder_to_train(urls[1]).exists()
