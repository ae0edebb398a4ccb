"""Every node must see what a job reads and writes; marks are left nowhere.

``file://`` stands for object stores, whose objects are asked for in the same way.
"""

from types import SimpleNamespace

import pytest

from greatmeta_dist.config import Config
from greatmeta_dist.errors import InputError
from greatmeta_dist.launch import places, preflight
from greatmeta_dist.launch.preflight import Folders, _check_nodes, _found
from greatmeta_dist.submitted import _places


@pytest.fixture
def nodes(monkeypatch):
    """Three nodes, whose looks are what this process sees; a test may change one's."""
    looks = {}

    def look_on(node, folders, marks):
        return looks.get(node, preflight._unseen)(folders.read, marks)

    alive = [{"NodeID": n, "NodeManagerAddress": f"10.0.0.{n}", "Alive": True} for n in "312"]
    here = SimpleNamespace(get_node_id=lambda: "1")
    ray = SimpleNamespace(
        nodes=lambda: [*alive, {"NodeID": "4", "NodeManagerAddress": "gone", "Alive": False}],
        get_runtime_context=lambda: here,
        get=lambda look, timeout: look,
        wait=lambda looks, num_returns, timeout: (looks, []),
        exceptions=SimpleNamespace(GetTimeoutError=TimeoutError, RayError=RuntimeError),
    )
    monkeypatch.setattr(preflight, "ray", ray)
    monkeypatch.setattr(preflight, "_look_on", look_on)
    return looks


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_all_nodes_that_live_look_and_nothing_is_left(nodes, tmp_path, scheme):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/manifest.json").touch()
    seen = []
    nodes["2"] = lambda read, marks: seen.append(marks["run"]) or preflight._unseen(read, marks)
    root = f"{scheme}{tmp_path}"
    folders = Folders({"store": f"{root}/store/manifest.json"}, {"run": f"{root}/new/a"})
    (tmp_path / "new").mkdir()
    assert _check_nodes(folders) == 3
    assert seen[0].startswith(f"{root}/new/.greatmeta-")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_node_that_does_not_see_a_folder_is_named(nodes, tmp_path, scheme):
    missing = Folders({"store": f"{scheme}{tmp_path}/store/manifest.json"}, {})
    with pytest.raises(
        InputError, match=r"store=\S+ is not seen by node 10.0.0.1, where the job runs"
    ):
        _check_nodes(missing)

    def elsewhere(read, marks):
        # A folder of the same name, on that node's own disk.
        return preflight._unseen(read, dict.fromkeys(marks, f"{tmp_path}/other/mark"))

    nodes["3"] = elsewhere
    written = Folders({}, {"run": f"{scheme}{tmp_path}/runs/a"})
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match=r"run=\S+ is not seen by node 10.0.0.3 \(it is not there"):
        _check_nodes(written)
    assert list((tmp_path / "runs").iterdir()) == []


def test_folders_that_were_made_for_a_mark_go_with_it(nodes, tmp_path):
    assert _check_nodes(Folders({}, {"run": f"{tmp_path}/a/b/run"})) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_a_node_cannot_reach_says_why(nodes, tmp_path, monkeypatch):
    def refuse(place):
        raise OSError("s3://bucket: no credentials; check the address")

    monkeypatch.setattr(preflight, "is_there", refuse)
    with pytest.raises(
        InputError,
        match=r"not seen by node 10.0.0.1, where the job runs .s3://buc.*credentials in its env",
    ):
        _check_nodes(Folders({"store": "s3://bucket/store/manifest.json"}, {}))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written where the job runs"):
        _check_nodes(Folders({}, {"run": f"{tmp_path}/file/run"}))


def test_marks_stand_beside_what_is_written_or_in_a_bucket(monkeypatch):
    written = []
    monkeypatch.setattr(
        places.ObjectFolder, "write", lambda self, name, content: written.append(self.url)
    )
    for url in ("s3://bucket/runs/a/", "s3://bucket/a", "s3://bucket"):
        assert places.write_mark(url, []).startswith(f"{written[-1]}/.greatmeta-")
    assert written == ["s3://bucket/runs", "s3://bucket", "s3://bucket"]


def test_urls_are_looked_at_and_patterns_are_said_to_be_left():
    config = Config(store="s3://b/store", run="/shared/run")
    config.data.path = "/logs/*.csv"
    assert _places("train", config)["read"] == {"store": "s3://b/store/manifest.json"}
    assert _places("train", config)["written"] == {"run": "/shared/run"}
    found = _found(3, Folders(**_places("prepare", config)))
    assert found == "3 nodes see store; data.path: the command looks itself"
