"""A copy has what its origin has; who changed what is seen without reading it."""

import pytest

from greatmeta_dist.errors import InputError
from greatmeta_dist.storage import objects
from greatmeta_dist.storage.local_copy import LocalCopy, absolute, local_folder, shown
from greatmeta_dist.storage.objects import ObjectFolder


def everything(name: str) -> bool:
    return True


@pytest.fixture
def url(s3, request) -> str:
    return f"{s3}/copies/{request.node.name}"


def copy_of(url: str, use: str = "") -> LocalCopy:
    copy = LocalCopy.of(local_folder(url, use=use))
    assert copy is not None
    return copy


def test_paths_on_disk_are_no_copies(tmp_path):
    assert local_folder(tmp_path) == tmp_path
    assert LocalCopy.of(tmp_path) is None
    assert absolute("s3://bucket/a/") == "s3://bucket/a"


@pytest.mark.parametrize(
    "url, message",
    [
        ("http://bucket.host/a", "is no folder of an object store; expected a URL such as s3://"),
        ("s3://", "is no folder of an object store"),
        ("s3://bucket/a?scheme=http", "has options behind a .; leave them out"),
    ],
)
def test_other_urls_are_refused(url, message):
    with pytest.raises(InputError, match=message):
        local_folder(url)


def test_users_read_of_the_url_and_not_of_its_copy(url):
    folder = local_folder(url)
    assert (
        shown(f"written to {folder}/a.json; see {folder}") == f"written to {url}/a.json; see {url}"
    )


def test_what_is_pulled_is_what_is_there(url):
    copy = copy_of(url)
    copy.origin.write("a/b.txt", b"one")
    copy.folder.mkdir()
    (copy.folder / "old.txt").write_text("old")
    (copy.folder / ".lock").write_text("")
    copy.pull(everything)
    assert (copy.folder / "a/b.txt").read_bytes() == b"one"
    assert not (copy.folder / "old.txt").exists()
    assert (copy.folder / ".lock").exists()


def test_only_what_differs_is_moved(url, monkeypatch):
    copy = copy_of(url)
    copy.folder.mkdir()
    (copy.folder / "a.txt").write_text("one")
    (copy.folder / "b.txt").write_text("one")
    copy.push(everything)
    moved = []
    for name in ("upload", "download"):
        monkeypatch.setattr(ObjectFolder, name, lambda self, *names: moved.append(names))
    copy.pull(everything)
    copy.push(everything)
    assert not moved
    monkeypatch.undo()
    (copy.folder / "b.txt").write_text("two")  # as long as before
    copy.push(everything)
    assert copy.origin.read("b.txt") == b"two"


def test_what_another_machine_changed_is_kept_unless_it_was_changed_here_too(url):
    here, there = copy_of(url), copy_of(url, use="another machine")
    here.folder.mkdir()
    for name in ("a", "b", "c"):
        (here.folder / name).write_text("one")
    here.push(everything)
    there.pull(everything)
    (there.folder / "a").write_text("three")
    (there.folder / "c").write_text("three")
    there.push(everything, only_changed=True)
    (here.folder / "b").write_text("two")
    (here.folder / "c").write_text("two, and more")
    here.pull(everything, keeps_changes=True)
    here.push(everything, only_changed=True)
    read = {name: here.origin.read(name).decode() for name in "abc"}
    assert read == {"a": "three", "b": "two", "c": "two, and more"}
    assert (here.folder / "a").read_text() == "three"


def test_an_interrupted_upload_leaves_no_object(url, tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "PIECE", 4)
    path, origin = tmp_path / "file", ObjectFolder(url)
    path.write_bytes(b"12345678")

    class Interrupted:
        def __init__(self, file):
            self.file, self.reads = file, 0

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def read(self, size: int) -> bytes:
            self.reads += 1
            if self.reads == 2:
                raise KeyboardInterrupt
            return self.file.read(size)

    opened = path.open("rb")
    monkeypatch.setattr(type(path), "open", lambda self, mode: Interrupted(opened))
    with pytest.raises(KeyboardInterrupt):
        origin.upload(path, "file")
    monkeypatch.undo()
    assert not ObjectFolder(url).files()


def test_what_is_not_here_is_deleted_where_the_copy_is_whole(url):
    copy = copy_of(url)
    copy.origin.write("old.txt", b"old")
    copy.folder.mkdir()
    (copy.folder / "new.txt").write_text("new")
    copy.push(everything, is_whole=True)
    assert set(copy.origin.files()) == {"new.txt"}
