"""A Ray cluster on loopback: a head with a dashboard and a token, and two more raylets.

All ports are its own.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos import descendants

START_S = 90.0
STOP_S = 10.0
TRIES = 3
NUM_NODES = 2
"""Besides the head. Each node has one processor and no GPU."""
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A busy machine is slow to start agents, without which a node ends.
    "RAY_agent_register_timeout_ms": "90000",
    # A node that was killed is missed soon; one that is slow still answers within Ray's 10 s.
    "RAY_health_check_period_ms": "1000",
    # So long Ray Train waits for a node that is gone before it takes what is left.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "8",
}


@dataclass
class Head:
    """The head of a cluster, and its other nodes."""

    dashboard: str
    """http://HOST:PORT"""
    gcs: str
    """HOST:PORT"""
    token: str
    folder: Path
    """Of Ray's sessions and logs."""
    of_head: dict[str, str] = field(default_factory=dict)
    """Environment variables of the head, and of jobs, which it runs."""
    of_nodes: dict[str, str] = field(default_factory=dict)
    """Environment variables of the other nodes."""
    nodes: list[subprocess.Popen] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to be let in, and a job to find this Python."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return os.environ | {"RAY_AUTH_TOKEN": self.token, "OMP_NUM_THREADS": "1", "PATH": path}

    def start(self, name: str, *options: str) -> subprocess.Popen:
        """Run ``ray start`` until it is ended."""
        with (self.folder / f"{name}.log").open("w") as log:
            return subprocess.Popen(
                [
                    sys.executable, "-m", "ray.scripts.scripts", "start", "--block",
                    "--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000", *options,
                ],
                env=self.environment
                | SETTINGS
                | (self.of_head if "--head" in options else self.of_nodes),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def add(self, name: str, *options: str) -> subprocess.Popen:
        """Start a node, and wait until the head knows it.

        Ray ends a node whose agent has not started after 15 s, which happens on a busy machine.
        """
        number = self.num_alive() + 1
        for _ in range(TRIES):
            node = self.start(name, *options)
            if self.wait_for_nodes(number, node):
                return node
            end(node)
        raise AssertionError("".join(path.read_text() for path in self.folder.glob("*.log")))

    def wait_for_nodes(self, number: int, process: subprocess.Popen) -> bool:
        """Wait until so many nodes live; false where the process that starts one has ended."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.num_alive() >= number:
                return True
            if process.poll() is not None:
                return False
            time.sleep(0.3)
        return False

    def num_alive(self) -> int:
        """Nodes that live, the head among them; 0 before the dashboard answers."""
        headers = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(f"{self.dashboard}/nodes?view=summary", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                nodes = json.load(answer)["data"]["summary"]
        except (OSError, ValueError, KeyError):
            return 0
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)

    def kill_a_node_with_a_worker(self) -> None:
        """SIGKILL a node, with all that it started, as when a machine dies."""
        for node in self.nodes:
            started = descendants(node.pid)
            if any("ray::RayTrainWorker" in title for title in started.values()):
                for pid in (node.pid, *started):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.nodes.remove(node)
                node.wait()
                return
        raise RuntimeError("no node but the head has a worker")


@contextmanager
def ray_head(**variables: dict[str, str]) -> Iterator[Head]:
    """Start a cluster; it ends with the block. ``variables`` are ``of_head`` and ``of_nodes``."""
    ports = _free_ports(7)
    # Ray's sockets have names of at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="gm-ray-", dir="/tmp"))
    head = Head(
        f"http://127.0.0.1:{ports[0]}",
        f"127.0.0.1:{ports[1]}",
        secrets.token_hex(32),
        folder,
        **variables,
    )
    started: list[subprocess.Popen] = []
    try:
        started.append(
            head.add(
                "head", "--head", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
                f"--dashboard-port={ports[0]}", f"--port={ports[1]}",
                f"--ray-client-server-port={ports[2]}",
                f"--dashboard-agent-listen-port={ports[3]}",
                f"--dashboard-agent-grpc-port={ports[4]}", f"--metrics-export-port={ports[5]}",
                f"--runtime-env-agent-port={ports[6]}", f"--temp-dir={folder}",
            )
        )  # fmt: skip
        for number in range(NUM_NODES):
            node = head.add(f"node{number}", f"--address={head.gcs}")
            head.nodes.append(node)
            started.append(node)
        yield head
    finally:
        for process in started:
            process.terminate()
        for process in started:
            end(process)
        shutil.rmtree(folder, ignore_errors=True)


def end(process: subprocess.Popen) -> None:
    """End a node with all that it started, where it does not end in ``STOP_S`` by itself."""
    started = descendants(process.pid)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        for pid in (process.pid, *started):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    listeners = [socket.socket() for _ in range(count)]
    try:
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()
