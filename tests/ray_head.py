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

START_S = 120.0
STOP_S = 10.0
NUM_NODES = 2
"""Besides the head. Each node has one processor and no GPU."""
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A busy machine is slow to start agents, without which a node ends.
    "RAY_agent_register_timeout_ms": "180000",
    # No workers are started before there is work for them: that would be most of a test's time.
    "RAY_prestart_worker_first_driver": "0",
    # A node that was killed is missed soon.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
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
                env=self.environment | SETTINGS,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

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
def ray_head() -> Iterator[Head]:
    """Start a cluster; it ends with the block."""
    ports = _free_ports(7)
    # Ray's sockets have names of at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="gm-ray-", dir="/tmp"))
    head = Head(
        f"http://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", secrets.token_hex(32), folder
    )
    process = head.start(
        "head", "--head", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
        f"--dashboard-port={ports[0]}", f"--port={ports[1]}",
        f"--ray-client-server-port={ports[2]}", f"--dashboard-agent-listen-port={ports[3]}",
        f"--dashboard-agent-grpc-port={ports[4]}", f"--metrics-export-port={ports[5]}",
        f"--runtime-env-agent-port={ports[6]}", f"--temp-dir={folder}",
    )  # fmt: skip
    try:
        _wait_until_ready(head, process, 1)
        for number in range(NUM_NODES):
            head.nodes.append(head.start(f"node{number}", f"--address={head.gcs}"))
        _wait_until_ready(head, process, 1 + NUM_NODES)
        yield head
    finally:
        for each in (*head.nodes, process):
            each.terminate()
        for each in (*head.nodes, process):
            _end(each)
        shutil.rmtree(folder, ignore_errors=True)


def _end(process: subprocess.Popen) -> None:
    """Wait for a node that was asked to end; draining it may take too long."""
    started = descendants(process.pid)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        for pid in (process.pid, *started):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _wait_until_ready(head: Head, process: subprocess.Popen, num_nodes: int) -> None:
    deadline = time.monotonic() + START_S
    while head.num_alive() < num_nodes:
        logs = "".join(path.read_text() for path in head.folder.glob("*.log"))
        assert process.poll() is None, logs
        assert time.monotonic() < deadline, logs
        time.sleep(0.3)


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
