"""What Ray's workers and the driver write to each other.

The *mailbox* is an actor on the driver's node. Workers post what is to be shown, and how the
training ended. The driver shows it, and asks there for a stop.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from greatmeta_dist.display import Bar, Display
from greatmeta_dist.launch.restart import Outcome, RestartPolicy
from greatmeta_dist.training.regroup import Regroup

Message = tuple[Any, ...]
"""``say`` and a text; ``bar``, label, total, unit and done; ``update``, done and detail; ``end``.

What a worker calls on its display, and on the bar that is open."""


class Mailbox:
    """What workers and the driver write to each other; runs as a Ray actor."""

    def __init__(self, run: Path):
        self._policy = RestartPolicy(run)
        self._messages: list[Message] = []
        self._outcome: Outcome | None = None
        self._is_stopped = False
        self._regroup: Regroup | None = None
        self._last_call = -math.inf
        """When a worker last wrote or asked: never yet."""

    def start(self) -> Outcome | None:
        """Called by the first worker before it trains; an outcome where it should not."""
        self._last_call = time.monotonic()
        is_excused = self._regroup is not None
        self._regroup = None
        self._outcome = self._outcome or self._policy.check(is_excused=is_excused)
        return self._outcome

    def post(self, *message: Any) -> None:
        """Leave something to show."""
        self._last_call = time.monotonic()
        self._messages.append(message)

    def drain(self) -> list[Message]:
        """What was posted since the last call."""
        messages, self._messages = self._messages, []
        return messages

    def conclude(self, outcome: Outcome) -> None:
        """Leave how a worker's training ended; a failure counts more than the others' outcomes."""
        if self._outcome is None or outcome.kind in ("bad input", "failed"):
            self._outcome = outcome

    def outcome(self) -> Outcome | None:
        """How the training ended; None as long as it goes on."""
        return self._outcome

    def stop(self) -> None:
        """Ask all workers to stop after the next step."""
        self._is_stopped = True

    def regroup(self, regroup: Regroup) -> None:
        """Ask all workers to make way for another group after the next step."""
        self._regroup = regroup

    def requests(self) -> tuple[bool, Regroup | None]:
        """Whether to stop, and whether to make way; workers that train ask every moment."""
        self._last_call = time.monotonic()
        return self._is_stopped, self._regroup

    def idle_s(self) -> float:
        """Seconds for which no worker has written or asked: long where there are no workers."""
        return time.monotonic() - self._last_call


class PostingDisplay(Display):
    """A worker's display: posts what the driver's is to show."""

    def __init__(self, mailbox: Any):
        super().__init__()
        self._mailbox = mailbox

    def say(self, text: str) -> None:
        self._mailbox.post.remote("say", text)

    @contextmanager
    def bar(self, label: str, total: int, unit: str, *, done: int = 0) -> Iterator[Bar]:
        self._mailbox.post.remote("bar", label, total, unit, done)
        try:
            yield PostingBar(self._mailbox)
        finally:
            self._mailbox.post.remote("end")


class PostingBar(Bar):
    """A bar on the driver's display."""

    def __init__(self, mailbox: Any):
        self._mailbox = mailbox

    def update(self, done: float, detail: str = "") -> None:
        self._mailbox.post.remote("update", done, detail)


@contextmanager
def shown_messages(display: Display) -> Iterator[Callable[[list[Message]], None]]:
    """Gives a function that shows messages on a display, in order; a bar left open ends after."""
    with ExitStack() as open_bar:
        bar: Bar | None = None

        def show(messages: list[Message]) -> None:
            nonlocal bar
            for kind, *words in messages:
                if kind == "say":
                    display.say(*words)
                elif kind == "update" and bar is not None:
                    bar.update(*words)
                elif kind in ("bar", "end"):
                    open_bar.close()  # also that of a group that died before its end
                    bar = None
                if kind == "bar":
                    label, total, unit, done = words
                    bar = open_bar.enter_context(display.bar(label, total, unit, done=done))

        yield show
