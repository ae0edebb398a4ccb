"""Units of work: what a preparation is cut into, so that threads or a cluster can share it.

A unit is a part of the log, or a bucket of users. What a unit is depends on the files alone, never
on who works, so any number of workers writes the same bytes. A function of a unit writes files of
its own, each of which appears whole or not at all, and returns a small result.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

from greatmeta_dist.processors import available_processors

Result = dict[str, Any]
"""What JSON can hold: it is kept in a file."""
UnitFunction = Callable[[int, Any], Result]
"""``(number, unit) -> result``; on a cluster it travels, as its units do."""
RunUnits = Callable[[UnitFunction, Sequence[tuple[int, Any]]], Iterator[tuple[int, Result] | None]]
"""Runs numbered units, in any order; yields the number and the result of each as it ends, and None
now and then while none does."""

HEARTBEAT_S = 0.25
MAX_THREADS = 4
"""Units at a time, unless told otherwise: each has a part of the log in memory."""


def run_in_threads(num_threads: int | None = None) -> RunUnits:
    """Units run in threads of this process: by default one for each processor, to ``MAX_THREADS``.

    Polars, NumPy and Arrow let threads run side by side, and threads share the catalogue.
    """
    num_threads = num_threads or min(available_processors(), MAX_THREADS)

    def run(
        function: UnitFunction, units: Sequence[tuple[int, Any]]
    ) -> Iterator[tuple[int, Result] | None]:
        waiting = iter(units)
        running: dict[Future[Result], int] = {}
        with ThreadPoolExecutor(num_threads, "unit") as pool:
            try:
                while True:
                    for number, unit in islice(waiting, num_threads - len(running)):
                        running[pool.submit(function, number, unit)] = number
                    if not running:
                        return
                    ended, _ = wait(running, HEARTBEAT_S, FIRST_COMPLETED)
                    if not ended:
                        yield None
                    for future in ended:
                        yield running.pop(future), future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    return run
