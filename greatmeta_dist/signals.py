"""Ctrl-C and SIGTERM: the first one asks a program to finish well, the second one ends it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class StopRequest:
    """Whether the user, or the system, has asked this process to stop."""

    is_received: bool = False


@contextmanager
def noted_stop_signals(on_first: Callable[[], None] | None = None) -> Iterator[StopRequest]:
    """Note the first Ctrl-C or SIGTERM that comes in the block instead of ending the process.

    The first one sets ``is_received`` and calls ``on_first``, in the main thread between two of
    its instructions; what ``on_first`` raises is raised there. From then on, and after the block,
    both signals do what they did before: by default the second Ctrl-C raises
    ``KeyboardInterrupt``, and the second SIGTERM ends the process.

    In other threads nothing is ever received: Python handles signals in the main thread alone, and
    a program that runs this in another one (as Ray runs its workers) handles them itself.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    # getsignal gives None for a handler that was not set by Python and cannot be set again by it.
    before = {kind: signal.getsignal(kind) or signal.SIG_DFL for kind in STOP_SIGNALS}

    def restore() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    def note_first(number: int, frame: Any) -> None:
        restore()
        request.is_received = True
        if on_first is not None:
            on_first()

    try:
        for kind in STOP_SIGNALS:
            signal.signal(kind, note_first)
        yield request
    finally:
        restore()
