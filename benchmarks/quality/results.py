"""The results file: every run is added as it ends, and none is repeated."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.environment import commit, environment
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.files import locked, write_text_atomically

SECONDS_TO_STOP = 30.0
"""How long a training has to write its checkpoint once the benchmark was killed."""


@dataclass(frozen=True)
class Run:
    """One entry of the results file, and how to make it."""

    key: str
    store: Store
    options: list[str]
    call: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...]


def run_key(data: str, model: str, seed: int) -> str:
    """The key of a run's entry; ``split_key`` takes it apart."""
    return f"{data} | {model} | {seed}"


def split_key(key: str) -> tuple[str, str, int]:
    """Data set, model and seed."""
    data, model, seed = key.split(" | ")
    return data, model, int(seed)


class Results:
    """The results file: read at the start, written whole after every run."""

    def __init__(self, path: Path):
        self.path = path
        self.runs: dict[str, Any] = self._read()

    def _read(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())["runs"] if self.path.exists() else {}

    def of(self, data: str, model: str) -> dict[int, dict[str, Any]]:
        """The runs of a model on a data set, by seed, in the order they were made."""
        keys = {key: split_key(key) for key in self.runs}
        return {
            seed: self.runs[key]
            for key, (of_data, of_model, seed) in keys.items()
            if (of_data, of_model) == (data, model)
        }

    def holds(self, run: Run) -> bool:
        """Whether the run is there, made in the same way on the same store."""
        made = self.runs.get(run.key)
        if made is None:
            return False
        return bool(made["store"] == run.store.identity and made["options"] == run.options)

    def commits(self) -> set[str | None]:
        """The commits that the runs were made with; None of runs that do not say."""
        return {run.get("commit") for run in self.runs.values()}

    def make_missing(self, runs: list[Run], jobs: int, label: str) -> None:
        """Make the runs that are missing, ``jobs`` at a time in processes of their own, with a bar.

        Each is written to the file as it ends. One that fails keeps no other from being made: all
        failures are raised together at the end. Raises ``InputError`` where another process adds to
        the file.
        """
        with locked(self.path.with_suffix(".lock"), f"another process adds to {self.path}"):
            self.runs = self._read()
            waiting = [run for run in runs if not self.holds(run)]
            failures: list[Exception] = []
            # Read now: processes import the code as it is at the start.
            made_with = commit()
            with (
                Display(Console(stderr=True)).bar(label, len(waiting), "runs") as bar,
                _processes(jobs) as pool,
            ):
                futures = {pool.submit(run.call, *run.arguments): run for run in waiting}
                for done, future in enumerate(as_completed(futures), start=1):
                    self._take(future, futures[future], made_with, failures)
                    bar.update(done, futures[future].key)
            if failures:
                raise ExceptionGroup(f"{len(failures)} of {len(waiting)} runs failed", failures)

    def _take(
        self,
        future: Future[dict[str, Any]],
        run: Run,
        made_with: str | None,
        failures: list[Exception],
    ) -> None:
        """Write a run that has ended, with the commit it was made with, or note why it failed."""
        try:
            result = future.result()
        except BrokenProcessPool:
            raise
        except Exception as error:
            error.add_note(f"in the run {run.key}")
            failures.append(error)
            return
        made_of = {"store": run.store.identity, "options": run.options, "commit": made_with}
        self.runs[run.key] = {**result, **made_of}
        whole = {"environment": environment(), "runs": self.runs}
        # Not strict JSON: what no user counts in is nan.
        write_text_atomically(self.path, json.dumps(whole, indent=1, ensure_ascii=False))


@contextmanager
def _processes(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes for runs, which end with this one, however it ends.

    Where the block is left by an error or Ctrl-C, they are asked to stop: a training writes a
    checkpoint first.
    """
    context = multiprocessing.get_context("spawn")
    arguments = (os.getpid(),)
    with ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_end_with, initargs=arguments
    ) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _end_with(parent: int) -> None:
    """Stop this process once ``parent`` is gone, as where that was killed, and not at a Ctrl-C.

    The parent passes that on. A training would take a second signal as an order to end at once.
    """
    os.setpgrp()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SECONDS_TO_STOP)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
