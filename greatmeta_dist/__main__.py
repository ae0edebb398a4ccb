"""``greatmeta`` and ``python -m greatmeta_dist``: quiet also when stopped while still importing."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def main(run: Callable[[], int] | None = None) -> int:
    """The exit code of the command line, or of what else is to run."""
    # SIGTERM ends a command as Ctrl-C does: what is unfinished is cleaned up, and it is said.
    signal.signal(signal.SIGTERM, _interrupt)
    # A terminal that cannot show a character shows "?" in its place.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        from greatmeta_dist.cli import main as run_words
    except KeyboardInterrupt:
        print("greatmeta: interrupted", file=sys.stderr)
        return 1
    try:
        code = (run or run_words)()
    except SystemExit as ended:  # of a process that torchrun started, and that is not the first
        code = int(ended.code or 0)
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        # Other processes of the group may be gone already, and the library's threads abort a
        # process that is ending when they find that out.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
