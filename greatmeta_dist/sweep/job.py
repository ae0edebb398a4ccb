"""The process of one training of a sweep: ``python -m greatmeta_dist.sweep.job``.

Its words come through standard input, which stays open while the sweep lives. What it prints is the
run's log, and its exit code says how it ended.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

CODES = {"done": 0, "failed": 1, "bad input": 2, "interrupted": 3}
"""Exit codes by the kind of an outcome (``launch/restart.py``)."""
PREFIX = "greatmeta: "
"""What the line begins with that says why a training ended."""
INTERRUPTED = "interrupted"


def main() -> int:
    """Train; the exit code."""
    # A shell that starts a command in the background has it ignore Ctrl-C, and we stop by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_sweep, name="sweep", daemon=True).start()
    try:
        kind, message = _train(request)
    except KeyboardInterrupt:
        kind, message = "interrupted", INTERRUPTED
    if message:
        print(f"{PREFIX}{' '.join(message.split())}")
    sys.stdout.flush()
    return CODES[kind]


def _train(request: dict[str, Any]) -> tuple[str, str]:
    """Train as the request says; the kind of outcome, and its message."""
    from greatmeta_dist.launch.cluster_of_sweep import joined
    from greatmeta_dist.launch.local import launch
    from greatmeta_dist.launch.restart import Outcome, attempt
    from greatmeta_dist.options.compose import compose_config
    from greatmeta_dist.sweep.plan import config_of_run

    run = Path(request["run"])

    def train() -> dict[str, Any]:
        config = config_of_run(run, compose_config(request["words"]), request["words"])
        with joined(request["address"]):
            return launch(config, run)

    outcome: Outcome = attempt(train)
    return outcome.kind, INTERRUPTED if outcome.kind == "interrupted" else outcome.message


def _end_with_sweep() -> None:
    """End this process when the sweep does, however that ends."""
    while sys.stdin.readline():
        pass
    os._exit(CODES["interrupted"])


if __name__ == "__main__":
    sys.exit(main())
