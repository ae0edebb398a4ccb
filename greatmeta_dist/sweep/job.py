"""The process of one training of a sweep: ``python -m greatmeta_dist.sweep.job``.

Its config comes through standard input, which stays open while the sweep lives. What it prints is
the run's log, and its exit code says how it ended.
"""

import os
import pickle
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from greatmeta_dist.config import Config

CODES = {"done": 0, "failed": 1, "bad input": 2, "interrupted": 3}
"""Exit codes by the kind of an outcome (``launch/restart.py``)."""
STDIN = 0
PREFIX = "greatmeta: "
"""What the line begins with that says why a training ended."""
INTERRUPTED = "interrupted"


def main() -> int:
    """Train; the exit code."""
    # A shell that starts a command in the background has it ignore Ctrl-C, and we stop by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        config, run, address = pickle.load(sys.stdin.buffer)
        threading.Thread(target=_end_with_sweep, name="sweep", daemon=True).start()
        kind, message = _train(config, run, address)
    except KeyboardInterrupt:
        kind, message = "interrupted", INTERRUPTED
    if message:
        print(f"{PREFIX}{' '.join(message.split())}")
    sys.stdout.flush()
    return CODES[kind]


def _train(config: Config, run: Path, address: str | None) -> tuple[str, str]:
    """Train, on the Ray cluster at ``address`` if there is one; how it ended, and the message."""
    from greatmeta_dist.launch.cluster_of_sweep import joined
    from greatmeta_dist.launch.local import launch
    from greatmeta_dist.launch.restart import Outcome, attempt

    def train() -> dict[str, Any]:
        with joined(address):
            return launch(config, run)

    outcome: Outcome = attempt(train)
    return outcome.kind, INTERRUPTED if outcome.kind == "interrupted" else outcome.message


def _end_with_sweep() -> None:
    """End this process when the sweep does, however that ends."""
    # By its number: a thread that holds Python's own lock on it would abort an orderly exit.
    while os.read(STDIN, 1):
        pass
    os._exit(CODES["interrupted"])


if __name__ == "__main__":
    sys.exit(main())
