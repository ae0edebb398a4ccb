"""Which cluster is joined, with which token; nothing of it needs Ray."""

import socket
import subprocess
import sys

import pytest

from greatmeta_dist.cli import main
from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.errors import InputError
from greatmeta_dist.launch import access
from greatmeta_dist.launch.access import Token, address_to_join, find_token, prepare_to_join


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch, tmp_path):
    for name in (
        "RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_JOB_CONFIG_JSON_ENV_VAR",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_job_joins_its_own_cluster_and_others_start_one(monkeypatch):
    assert address_to_join(ClusterConfig(kind="ray")) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert address_to_join(ClusterConfig(kind="ray")) is None
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert address_to_join(ClusterConfig(kind="ray")) == "10.0.0.1:6379"
    assert address_to_join(ClusterConfig(kind="ray", address="a:1")) == "a:1"


def test_a_token_is_looked_for_where_ray_looks_for_it(monkeypatch, tmp_path):
    assert find_token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("home\n")
    assert find_token() == Token("home", str(tmp_path / ".ray/auth_token"))
    (tmp_path / "mine").write_text("file")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "mine"))
    assert find_token() == Token("file", str(tmp_path / "mine"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", " word ")
    assert find_token() == Token("word", "RAY_AUTH_TOKEN")


@pytest.mark.parametrize(
    "address, reason",
    [
        ("http://127.0.0.1:8265", "is where jobs are submitted; submit this one"),
        ("ray://127.0.0.1:10001", "is of Ray's client, .*submit the command"),
        ("127.0.0.1:1", "no Ray cluster answers at cluster.address=127.0.0.1:1"),
        ("127.0.0.1:99999", "no Ray cluster answers"),
        ("no.invalid:6379", "no Ray cluster answers"),
    ],
)
def test_an_address_without_a_cluster_is_one_line(address, reason):
    with pytest.raises(InputError, match=reason):
        prepare_to_join(ClusterConfig(kind="ray", address=address))


def test_a_listener_that_never_answers_is_one_line_and_in_time(monkeypatch):
    monkeypatch.setattr(access, "CONNECT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(InputError, match=r"no Ray cluster .* \(it says nothing for 0.5 s\)"):
            prepare_to_join(ClusterConfig(kind="ray", address=address))


@pytest.mark.parametrize(
    "command, words, lack",
    [
        ("prepare", ("cluster.workers=4",), "4 workers need 4 CPU, and it has 2"),
        ("train", ("cluster.workers=4",), "4 workers need 4 CPU, and it has 2"),
        ("train", ("cluster.workers=2", "cluster.threads=2"), "2 workers need 4 CPU, and it has 2"),
        ("train", ("cluster.workers=[4,8]",), "4 workers need 4 CPU, and it has 2"),
        ("train", ("cluster.gpus_per_worker=1",), "1 worker needs 1 GPU, and it has 0"),
    ],
)
def test_what_a_ray_of_this_machine_can_never_have_is_said_at_once(
    command, words, lack, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(access, "available_processors", lambda: 2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    folders = {"train": ("run=run", "store=store"), "prepare": ("data=synthetic", "store=store")}
    assert main([command, *folders[command], "cluster=ray", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"a Ray on this machine can never have that: {lack}; ask for less" in line
    assert list(tmp_path.iterdir()) == []


def test_a_range_of_workers_takes_what_this_machine_has(monkeypatch):
    monkeypatch.setattr(access, "available_processors", lambda: 2)
    prepare_to_join(ClusterConfig(kind="ray", workers=[1, 8]))
    prepare_to_join(ClusterConfig(kind="ray", workers=2))


def test_asking_a_cluster_imports_nothing_of_ray():
    program = "import sys, greatmeta_dist.launch.access; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
