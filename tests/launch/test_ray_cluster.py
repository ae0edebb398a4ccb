"""A Ray that does not start, or cannot be joined, is one line."""

import os
import signal
import sys

import pytest

from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.display import Silent
from greatmeta_dist.errors import InputError
from greatmeta_dist.launch import ray_cluster
from greatmeta_dist.launch.ray_cluster import connected, ray


def connect(**options) -> None:
    with connected(ClusterConfig(kind="ray", **options), Silent()):
        raise AssertionError("it is connected")


def test_a_folder_whose_name_is_too_long_for_ray_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 20)))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray writes a token in the home folder
    with pytest.raises(RuntimeError, match=r"Ray did not start .*path length cannot exceed.* logs"):
        connect()
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    "error",
    [
        Exception("The current node timed out during startup.\nThis could happen."),
        TimeoutError("Timed out after 30 seconds."),
        RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.1"),
    ],
)
def test_whatever_ray_raises_is_one_line_of_the_right_kind(monkeypatch, error):
    def init(**options):
        raise error

    monkeypatch.setattr(ray, "init", init)
    reason = " ".join(str(error).split()).rstrip(".")
    with pytest.raises(RuntimeError) as caught:
        connect()
    assert str(caught.value).startswith(f"Ray did not start on this machine ({reason});")
    with pytest.raises(InputError) as refused:
        connect(address="head:6379")
    assert f"cluster.address=head:6379 cannot be joined from here ({reason});" in str(refused.value)


def test_a_node_s_many_processes_are_no_news_and_want_of_memory_is(monkeypatch, capsys):
    worker = ray._private.worker
    printer = worker.print_to_stdstream
    reports = [f"WARNING: 9 PYTHON {ray_cluster.MANY_PROCESSES}: x", "1 Workers killed"]

    def init(**options):
        for line in reports:
            worker.print_to_stdstream({"lines": [line], "pid": "raylet", "is_err": False}, False)

    monkeypatch.setattr(ray, "init", init)
    with connected(ClusterConfig(kind="ray"), Silent()):
        pass
    (shown,) = capsys.readouterr().out.splitlines()
    assert shown.endswith(" 1 Workers killed")
    assert worker.print_to_stdstream is printer


@pytest.mark.parametrize("comes_while", ["joining", "joined"])
def test_sigterm_does_what_it_did_before_ray_took_it(monkeypatch, comes_while):
    def terminate() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def init(**options):
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as Ray's own does
        if comes_while == "joining":
            terminate()

    def interrupt(number, frame):
        raise KeyboardInterrupt

    def join() -> None:
        with connected(ClusterConfig(kind="ray"), Silent()):
            assert comes_while == "joined"
            terminate()

    monkeypatch.setattr(ray, "init", init)
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            join()
        assert signal.getsignal(signal.SIGTERM) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
