"""A Ray head on loopback, with a dashboard and a token, on ports of its own."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_S = 90.0
STOP_S = 10.0
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A busy machine is slow to start agents, without which a node ends.
    "RAY_agent_register_timeout_ms": "180000",
    # No workers are started before there is work for them: that would be most of a test's time.
    "RAY_prestart_worker_first_driver": "0",
}


@dataclass(frozen=True)
class Head:
    """A head with two processors and no GPU."""

    dashboard: str
    """http://HOST:PORT"""
    gcs: str
    """HOST:PORT"""
    token: str

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to be let in."""
        return os.environ | {"RAY_AUTH_TOKEN": self.token, "OMP_NUM_THREADS": "1"}

    def run(self, *words: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        """Run greatmeta in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "greatmeta_dist", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def submit(self, *words: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
        """Submit a command to this head."""
        mine = (f"cluster.address={self.dashboard}", f"submit.python={sys.executable}")
        return self.run("submit", *mine, *options, "--", *words)


@contextmanager
def ray_head() -> Iterator[Head]:
    """Start a head; it ends with the block."""
    ports = _free_ports(7)
    head = Head(f"http://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", secrets.token_hex(32))
    # Ray's sockets have names of at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="gm-ray-", dir="/tmp"))
    log = (folder / "head.log").open("w")
    process = subprocess.Popen(
        [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
            "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--num-cpus=2",
            "--num-gpus=0", f"--dashboard-port={ports[0]}", f"--port={ports[1]}",
            f"--ray-client-server-port={ports[2]}", f"--dashboard-agent-listen-port={ports[3]}",
            f"--dashboard-agent-grpc-port={ports[4]}", f"--metrics-export-port={ports[5]}",
            f"--runtime-env-agent-port={ports[6]}", "--object-store-memory=100000000",
            f"--temp-dir={folder}",
        ],
        env=head.environment | SETTINGS,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        _wait_until_ready(head, process, folder)
        yield head
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # draining its node took too long
            process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(head: Head, process: subprocess.Popen, folder: Path) -> None:
    headers = {"Authorization": f"Bearer {head.token}"}
    request = urllib.request.Request(f"{head.dashboard}/api/jobs/", headers=headers)
    deadline = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(request, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            log = (folder / "head.log").read_text()
            assert process.poll() is None, log
            assert time.monotonic() < deadline, log
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
