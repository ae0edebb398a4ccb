"""Builds steps before they are needed, on a thread of its own where a core is free for it."""

import os
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from greatmeta_dist.batching.lanes import Lanes, Step
from greatmeta_dist.meta.batch import pinned
from greatmeta_dist.processors import available_processors

STEPS_AHEAD = 2
"""Built steps that wait to be taken, at most."""


def is_core_free(device: torch.device) -> bool:
    """Whether the step leaves a core to build the next batch on.

    With one thread more than there are cores, torch's threads wait for one another. Measured on two
    cores, a step then takes twice as long; building between steps costs a tenth.
    """
    num_workers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    num_threads = torch.get_num_threads() * num_workers
    return device.type != "cpu" or num_threads < available_processors()


class Loader:
    """The steps of a range, in order; a context manager.

    ``is_ahead`` builds them on a thread, ``is_pinned`` puts them in page-locked memory, from which
    a GPU copies while it computes.
    """

    def __init__(self, lanes: Lanes, steps: range, *, is_ahead: bool, is_pinned: bool = False):
        self._lanes, self._steps, self._is_pinned = lanes, steps, is_pinned
        self._ready: queue.Queue[Step | BaseException] = queue.Queue(STEPS_AHEAD)
        self._is_closed = threading.Event()
        self._thread = (
            threading.Thread(target=self._build_all, name="loader", daemon=True)
            if is_ahead
            else None
        )

    @classmethod
    def suited(cls, lanes: Lanes, steps: range, device: torch.device) -> "Loader":
        """Ahead where a core is free, and pinned for a GPU."""
        return cls(lanes, steps, is_ahead=is_core_free(device), is_pinned=device.type == "cuda")

    def __enter__(self) -> "Loader":
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed.set()
        # The thread may be waiting for room in the queue: empty it until the thread has seen the
        # flag and ended.
        while self._thread is not None and self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                continue

    def __iter__(self) -> Iterator[Step]:
        for number in self._steps:
            step = self._build(number) if self._thread is None else self._ready.get()
            if isinstance(step, BaseException):
                raise step
            yield step

    def _build_all(self) -> None:
        """Build all steps, on the thread. An error is put in a step's place, to be raised there."""
        try:
            for number in self._steps:
                if self._is_closed.is_set():
                    return
                self._ready.put(self._build(number))
        except BaseException as error:
            self._ready.put(error)

    def _build(self, number: int) -> Step:
        step = self._lanes.step(number)
        return replace(step, batch=pinned(step.batch)) if self._is_pinned else step


def with_following(steps: Iterable[Step]) -> Iterator[tuple[Step, Step | None]]:
    """Each step with the one after it, None after the last."""
    previous: Step | None = None
    for step in steps:
        if previous is not None:
            yield previous, step
        previous = step
    if previous is not None:
        yield previous, None
