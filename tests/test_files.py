"""Files and folders appear whole or not at all."""

import hashlib
import json
import os

import pytest

from greatmeta_dist import files
from greatmeta_dist.errors import InputError


def test_a_lock_is_held_once_and_freed_after_the_block(tmp_path):
    path = tmp_path / ".lock"
    with (
        files.locked(path, "somebody writes here"),
        pytest.raises(InputError, match="somebody writes here; wait for it, or stop it"),
        files.locked(path, "somebody writes here"),
    ):
        pass
    with files.locked(path, "somebody writes here"):
        pass


def test_sha256_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"some bytes")
    assert files.sha256(path) == hashlib.sha256(b"some bytes").hexdigest()


def test_json_reads_back_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    for value in ({"a": [1, 2.5, None]}, {"b": "ü"}):
        files.write_json_atomically(path, value)
        assert json.loads(path.read_text()) == value
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_text_that_cannot_be_flushed_leaves_the_earlier_one(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text_atomically(path, "earlier")

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", fail)
    with pytest.raises(OSError, match="No space left"):
        files.write_text_atomically(path, "later")
    assert path.read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_appears_when_its_block_ends(tmp_path):
    target = tmp_path / "new" / "folder"
    with files.published_folder(target) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "a").write_text("a")
        assert partial.parent == target.parent
        assert not target.exists()
    assert (target / "sub" / "a").read_text() == "a"
    assert os.listdir(target.parent) == ["folder"]


def test_a_folder_replaces_the_earlier_one_whole(tmp_path):
    for name in ("a", "b"):
        with files.published_folder(tmp_path / "folder") as partial:
            (partial / name).write_text(name)
    assert os.listdir(tmp_path / "folder") == ["b"]


def test_an_error_deletes_the_unfinished_folder_and_leaves_the_earlier_one(tmp_path):
    target = tmp_path / "folder"
    with files.published_folder(target) as partial:
        (partial / "a").write_text("earlier")
    with pytest.raises(ZeroDivisionError), files.published_folder(target) as partial:
        (partial / "a").write_text(f"later {1 / 0}")
    assert (target / "a").read_text() == "earlier"
    assert os.listdir(tmp_path) == ["folder"]


def test_what_a_killed_process_left_is_not_published(tmp_path):
    with files.published_folder(tmp_path / "folder") as partial:
        name = partial.name
    (tmp_path / name).mkdir()
    (tmp_path / name / "left over").touch()
    with files.published_folder(tmp_path / "folder") as partial:
        (partial / "a").touch()
    assert os.listdir(tmp_path / "folder") == ["a"]


def test_several_writers_share_a_named_unfinished_folder(tmp_path):
    shared = tmp_path / ".partial-shared"
    shared.mkdir()
    (shared / "another's").touch()
    with files.published_folder(tmp_path / "folder", partial=shared) as partial:
        (partial / "own").touch()
    assert sorted(os.listdir(tmp_path / "folder")) == ["another's", "own"]
    assert not shared.exists()
