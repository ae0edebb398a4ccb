"""What a cluster lacks is said by resource, and waiting for it has an end."""

from types import SimpleNamespace

import pytest

from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.errors import InputError
from greatmeta_dist.launch import waiting
from greatmeta_dist.launch.waiting import Need, Waiting, needed, require_possible


def a_cluster(monkeypatch, *nodes, free=None, largest=None, is_pending=False):
    """Stand in for Ray, with nodes of such resources."""
    kinds = {kind for node in nodes for kind in node}
    total = {kind: sum(node.get(kind, 0) for node in nodes) for kind in kinds}
    groups = {"a": {"state": "PENDING" if is_pending else "CREATED"}}
    state = SimpleNamespace(get_max_resources_from_cluster_config=lambda: largest)
    ray = SimpleNamespace(
        cluster_resources=lambda: total,
        available_resources=lambda: total if free is None else free,
        nodes=lambda: [{"Alive": True, "Resources": node} for node in nodes],
        util=SimpleNamespace(placement_group_table=lambda: groups),
        _private=SimpleNamespace(state=SimpleNamespace(state=state)),
    )
    monkeypatch.setattr(waiting, "ray", ray)


def said_by(need, wait_s=1000.0):
    lines = []
    display = SimpleNamespace(say=lines.append)
    return Waiting(need, wait_s, display, is_group=True), lines


def test_what_is_there_lacks_nothing(monkeypatch):
    a_cluster(monkeypatch, {"CPU": 2}, {"CPU": 2, "GPU": 1})
    assert Need(4, {"CPU": 1.0}).lacking() is None
    assert Need(1, {"CPU": 1.0, "GPU": 1.0}).lacking() is None


def test_what_is_missing_is_named_with_what_is_there(monkeypatch):
    a_cluster(monkeypatch, {"CPU": 2})
    assert Need(4, {"CPU": 1.0}).lacking() == "4 workers need 4 CPU, and it has 2"
    assert Need(1, {"GPU": 1.0}).lacking() == "1 worker needs 1 GPU, and it has 0"


def test_a_worker_does_not_stand_on_two_nodes(monkeypatch):
    a_cluster(monkeypatch, {"CPU": 3}, {"CPU": 3})
    lack = Need(3, {"CPU": 2.0}).lacking()
    assert lack == "3 workers need 2 CPU each on one node, and its nodes have room for 2"


def test_a_cluster_that_grows_can_have_what_it_grows_to(monkeypatch):
    need = Need(4, {"CPU": 1.0, "GPU": 1.0})
    a_cluster(monkeypatch, {"CPU": 4})
    assert need.lacking_for_ever() == "4 workers need 4 GPU, and it has 0"
    a_cluster(monkeypatch, {"CPU": 4}, largest={"CPU": 32, "GPU": 8})
    assert need.lacking_for_ever() is None
    a_cluster(monkeypatch, {"CPU": 4}, largest={"CPU": 32, "GPU": 2})
    assert need.lacking_for_ever() == "4 workers need 4 GPU, and it grows to 2 at most"


def test_waiting_says_each_thing_once_and_ends(monkeypatch):
    a_cluster(monkeypatch, {"CPU": 2})
    wait, lines = said_by(Need(4, {"CPU": 1.0}))
    wait.look()
    wait.look()
    assert lines == [
        "waiting for the cluster to grow or to be free: 4 workers need 4 CPU, and it has 2"
    ]
    wait, _ = said_by(Need(4, {"CPU": 1.0}), wait_s=0.0)
    with pytest.raises(RuntimeError, match=r"waited 0 s for the cluster \(cluster.wait_s\): 4 wor"):
        wait.look()


def test_waiting_for_others_is_said_and_a_group_that_starts_does_not_wait(monkeypatch):
    wait, lines = said_by(Need(2, {"CPU": 1.0}))
    a_cluster(monkeypatch, {"CPU": 2}, free={"CPU": 0})
    wait.look()
    assert lines == []
    a_cluster(monkeypatch, {"CPU": 2}, free={"CPU": 1}, is_pending=True)
    wait.look()
    assert lines[0].endswith("2 workers need 2 CPU, and it has 1 free")


def test_a_ray_of_one_s_own_that_lacks_something_is_refused(monkeypatch):
    a_cluster(monkeypatch, {"CPU": 2})
    monkeypatch.setattr(waiting, "is_own_ray", lambda: True)
    with pytest.raises(InputError, match="can never have that: 4 workers need 4 CPU"):
        require_possible(Need(4, {"CPU": 1.0}))
    monkeypatch.setattr(waiting, "is_own_ray", lambda: False)
    require_possible(Need(4, {"CPU": 1.0}))


def test_a_range_of_workers_needs_its_fewest(monkeypatch):
    cluster = ClusterConfig(kind="ray", workers=[2, 8], threads=3, gpus_per_worker=1)
    assert needed(cluster) == Need(2, {"CPU": 3.0, "GPU": 1.0})
