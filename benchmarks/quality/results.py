"""The results file: every run is added as it ends, and none is repeated."""

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.environment import environment
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display


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
        self.runs: dict[str, Any] = {}
        if path.exists():
            self.runs = json.loads(path.read_text())["runs"]

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

    def make_missing(self, runs: list[Run], jobs: int, label: str) -> None:
        """Make the runs that are missing, ``jobs`` at a time in processes of their own, with a bar.

        Each is written to the file as it ends.
        """
        waiting = [run for run in runs if not self.holds(run)]
        context = multiprocessing.get_context("spawn")
        with (
            Display(Console(stderr=True)).bar(label, len(waiting), "runs") as bar,
            ProcessPoolExecutor(jobs, mp_context=context) as pool,
        ):
            futures = {pool.submit(run.call, *run.arguments): run for run in waiting}
            try:
                for done, future in enumerate(as_completed(futures), start=1):
                    run = futures[future]
                    made_of = {"store": run.store.identity, "options": run.options}
                    self._write(run.key, {**future.result(), **made_of})
                    bar.update(done, run.key)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _write(self, key: str, run: dict[str, Any]) -> None:
        self.runs[key] = run
        partial = self.path.with_suffix(".partial")
        whole = {"environment": environment(), "runs": self.runs}
        partial.write_text(json.dumps(whole, indent=1, ensure_ascii=False))
        partial.replace(self.path)
