"""Steps are built on a thread of their own, ahead of their use."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace

from greatmeta_dist.meta.batch import pinned
from greatmeta_dist.tasks.lanes import Lanes, Step

STEPS_AHEAD = 2


class Loader:
    """The steps of a range, each as soon as it is asked for; a context manager.

    ``is_pinned`` puts them in page-locked memory, from which a GPU copies while it computes.
    """

    def __init__(self, lanes: Lanes, steps: range, *, is_pinned: bool = False):
        self._lanes, self._steps, self._is_pinned = lanes, steps, is_pinned
        self._ready: queue.Queue[Step | BaseException] = queue.Queue(STEPS_AHEAD)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._build, name="loader", daemon=True)

    def __enter__(self) -> "Loader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                continue

    def __iter__(self) -> Iterator[Step]:
        for _ in self._steps:
            found = self._ready.get()
            if isinstance(found, BaseException):
                raise found
            yield found

    def _build(self) -> None:
        try:
            for number in self._steps:
                if self._is_closed.is_set():
                    return
                self._ready.put(self._built(number))
        except BaseException as error:
            self._ready.put(error)

    def _built(self, number: int) -> Step:
        step = self._lanes.step(number)
        return replace(step, batch=pinned(step.batch)) if self._is_pinned else step
