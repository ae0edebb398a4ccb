"""SIGTERM to a worker of Ray: the first one asks for a checkpoint, as the loss of its node does.

Slurm, for one, sends it to every process of a job that is to end.
"""

import signal
import threading
from typing import Any

_received = threading.Event()


def note_sigterm() -> None:
    """Note the first SIGTERM to this process; the second one does what the first would have done.

    Called in the main thread of the worker, which trains in another one.
    """
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

    def note(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, before)
        _received.set()

    signal.signal(signal.SIGTERM, note)


def is_terminated() -> bool:
    """Whether this process has received one."""
    return _received.is_set()
