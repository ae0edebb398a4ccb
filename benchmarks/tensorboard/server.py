"""A TensorBoard of its own, on loopback, and its HTTP API."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

START_S = 120.0
"""How long a TensorBoard may take until it answers."""
POLL_S = 0.1
ADDRESS = re.compile(r"(http://\S+?)/? \(Press")


@dataclass(frozen=True)
class Board:
    """A TensorBoard that runs."""

    url: str
    pid: int

    def get(self, path: str, **query: str) -> Any:
        """What the API answers at ``data/<path>``, read as JSON."""
        return json.loads(self.read(path, **query))

    def read(self, path: str, **query: str) -> bytes:
        """The bytes of an answer."""
        words = f"?{urlencode(query)}" if query else ""
        with urllib.request.urlopen(f"{self.url}/data/{path}{words}", timeout=START_S) as answer:
            return bytes(answer.read())

    def post(self, path: str, body: Any) -> Any:
        """What the API answers to JSON sent to ``data/<path>``."""
        request = urllib.request.Request(
            f"{self.url}/data/{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=START_S) as answer:
            return json.loads(answer.read())

    def session_groups(self, num_rows: int = 10_000) -> list[dict[str, Any]]:
        """The first rows of the HParams table, with all columns."""
        statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
        body = {
            "experimentName": "",
            "allowedStatuses": statuses,
            "colParams": [],
            "startIndex": 0,
            "sliceSize": num_rows,
        }
        groups: list[dict[str, Any]] = self.post("plugin/hparams/session_groups", body)[
            "sessionGroups"
        ]
        return groups

    def processor_s(self) -> float:
        """Seconds of processors that it took so far, with its loader, a process of its own."""
        total = 0.0
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                # After the name, which may have spaces: state, parent, …, user and system time.
                words = path.read_text().rpartition(")")[2].split()
                if self.pid in (int(path.parent.name), int(words[1])):
                    total += (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
        return total

    def wait_until(self, is_ready: Callable[[], bool], *, patience_s: float = START_S) -> float:
        """Wait until it has read what is asked for; the seconds it took."""
        start = time.monotonic()
        while not is_ready():
            if time.monotonic() > start + patience_s:
                raise TimeoutError(f"TensorBoard at {self.url} does not show all that is written")
            time.sleep(POLL_S)
        return time.monotonic() - start


@contextmanager
def served(folder: Path, *, is_fast: bool = True) -> Iterator[Board]:
    """A TensorBoard of a folder while in the block; ``is_fast`` chooses its loader."""
    words = ["--logdir", str(folder), "--host", "127.0.0.1", "--port", "0"]
    words += ["--load_fast", "true" if is_fast else "false"]
    command = [sys.executable, "-m", "tensorboard.main", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            address = ADDRESS.search(line)
            if address:
                yield Board(address[1], process.pid)
                return
        raise RuntimeError(f"TensorBoard did not start: {''.join(lines[-5:])}")
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()
