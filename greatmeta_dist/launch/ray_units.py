"""Units of work as tasks of a Ray cluster (``data/units.py``).

A task whose worker or node dies is run again on another one.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.data.units import HEARTBEAT_S, Result, RunUnits, UnitFunction
from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError
from greatmeta_dist.launch.ray_cluster import connected, gpus_per_worker, ray
from greatmeta_dist.launch.waiting import Need, Waiting, require_possible

MAX_RETRIES = 5
"""A unit that ends its worker so many times is not run again."""
TASKS_PER_CPU = 2
"""Tasks that are handed to the cluster at a time, so that none of it waits for the driver."""


@dataclass(frozen=True)
class _Outcome:
    """How a unit ended: with a result, or with a message."""

    result: Result | None
    message: str = ""
    is_bad_input: bool = False


@contextmanager
def units_on_ray(cluster: ClusterConfig, display: Display) -> Iterator[RunUnits]:
    """Units run as Ray tasks of one CPU each; ``cluster.workers`` at a time, or all CPUs' worth."""
    with connected(cluster, display):
        yield _runner(_limit(cluster), _waiting(cluster, 0.0, display))


def gpu_units(cluster: ClusterConfig, display: Display) -> RunUnits | None:
    """Units run as Ray tasks with GPUs of their own; None where the cluster has none.

    ``cluster.gpus_per_worker`` says how many each takes. Called where Ray is connected.
    """
    num_gpus = gpus_per_worker(cluster)
    if not num_gpus:
        return None
    return _runner(_limit(cluster), _waiting(cluster, num_gpus, display), num_gpus)


def _waiting(cluster: ClusterConfig, num_gpus: float, display: Display) -> Waiting:
    """How long to wait for room for one unit; raises ``InputError`` where it will never come."""
    need = Need(1, {"CPU": 1.0} | ({"GPU": num_gpus} if num_gpus else {}))
    require_possible(need)
    return Waiting(need, cluster.wait_s, display)


def _limit(cluster: ClusterConfig) -> int | None:
    return cluster.most_workers if cluster.workers is not None else None


def _runner(limit: int | None, waiting: Waiting, num_gpus: float = 0.0) -> RunUnits:
    def run(function: UnitFunction, units: Sequence[tuple[int, Any]]) -> Iterator[Any]:
        # The function is sent once, and a worker keeps it: it may hold thousands of files' names.
        shared = [ray.put(function)]
        task = ray.remote(_run_unit).options(
            num_cpus=1,
            num_gpus=num_gpus,
            max_retries=MAX_RETRIES,
            scheduling_strategy="SPREAD",
        )
        folder = os.getcwd()
        coming = iter(units)
        running: dict[Any, int] = {}
        try:
            while True:
                room = (limit or _cpus() * TASKS_PER_CPU) - len(running)
                for number, unit in islice(coming, max(room, 0)):
                    running[task.remote(shared, folder, number, unit)] = number
                if not running:
                    return
                ended, _ = ray.wait(list(running), num_returns=1, timeout=HEARTBEAT_S)
                if not ended:
                    waiting.look()
                    yield None
                for reference in ended:
                    yield running.pop(reference), _result(reference)
        finally:
            for reference in running:
                with suppress(ray.exceptions.RayError):
                    ray.cancel(reference, force=True)

    return run


def _cpus() -> int:
    """CPUs that the cluster has now: it may grow."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _result(reference: Any) -> Result:
    """A unit's result; raises the error that it ended with."""
    try:
        outcome: _Outcome = ray.get(reference)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise RuntimeError(
            f"a worker died {MAX_RETRIES + 1} times over one part of the log ({reason}); look for "
            "what ends it (memory?), then run the same command again"
        ) from error
    if outcome.result is not None:
        return outcome.result
    raise InputError(outcome.message) if outcome.is_bad_input else RuntimeError(outcome.message)


_functions: dict[str, Callable[[int, Any], Result]] = {}
"""The function whose units this worker runs, by its reference."""


def _run_unit(shared: list[Any], folder: str, number: int, unit: Any) -> _Outcome:
    """What a task does."""
    # Polars takes all processors of its machine otherwise, and a task has one. It reads this when
    # it is imported, which is when the function is received.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    with suppress(OSError):
        os.chdir(folder)  # paths may be relative to where the command was typed
    key = shared[0].hex()
    try:
        if key not in _functions:
            _functions.clear()
            _functions[key] = ray.get(shared[0])
        return _Outcome(_functions[key](number, unit))
    except InputError as error:
        return _Outcome(None, str(error), is_bad_input=True)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _Outcome(None, f"{name}{error.strerror or error}")
    except Exception as error:
        return _Outcome(None, f"a worker failed: {type(error).__name__}: {error}")
