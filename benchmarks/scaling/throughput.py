"""Groups of 1 and 2 workers on the same steps, in turns."""

import math
import statistics
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.scaling.model import Shapes, one_row_layers
from benchmarks.scaling.workers import LONE_PAIR, SIZES, Workers, join_group
from benchmarks.untrained import training_lanes, untrained_model
from greatmeta_dist.batching.lane_counts import lanes_for_workers
from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.options.compose import compose_config

STEPS = 12
"""Of a round."""


@dataclass
class Round:
    """What one worker measured in a round."""

    seconds: float
    cpu_seconds: float
    """In which nobody waits for anybody."""
    sent: dict[str, int]
    """Bytes by phase."""
    in_messages: dict[str, float]
    """Seconds by phase, waiting included."""
    rows: float
    """Mean number of distinct embedding rows that a step touches here."""


Rounds = dict[int, list[list[Round]]]
"""By group size, and by round: what each worker measured."""


def measure(data: DataConfig, users: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Medians over rounds of all groups."""
    store = folder / "store"
    prepare(data, store)
    lanes = lanes_for_workers(Store(store), users, max(SIZES))
    words = [
        f"store={store}",
        f"train.users_per_batch={users}",
        f"train.lanes={lanes}",
        "cluster.threads=1",
    ]
    # Priors are fitted once, here, so that the workers only read them.
    untrained_model(compose_config(words), Store(store))
    shapes, results = _take_turns(words, rounds, folder)
    return {
        "users_per_batch": users,
        "lanes": lanes,
        "parameters_of_A": sum(map(math.prod, shapes.values())),
        "one_row_layers": one_row_layers(shapes),
        **_rates(results, users),
        **_messages(results[2], users),
        "rows_per_worker": {
            size: statistics.mean(w.rows for by_worker in results[size] for w in by_worker)
            for size in SIZES
        },
    }


def _take_turns(words: list[str], rounds: int, folder: Path) -> tuple[Shapes, Rounds]:
    """Shapes of A's tensors, and the rounds of all groups; a first round does not count."""
    groups = {size: Workers(size, folder, take_rounds, words) for size in (*SIZES, LONE_PAIR)}
    shapes, *_ = [of_one for group in groups.values() for of_one in group.receive()]
    results: Rounds = {size: [] for size in groups}
    for number in range(rounds + 1):
        for size, group in groups.items():
            group.send(True)
            by_worker = group.receive()
            if number:
                results[size].append(by_worker)
    for group in groups.values():
        group.end()
    return shapes, results


def take_rounds(rank: int, size: int, rendezvous: Path, pipe: Connection, words: list[str]) -> None:
    """A worker: takes a round of steps for every message from the parent."""
    communicator = join_group(rank, size, rendezvous)
    config = compose_config(words)
    store = Store(Path(config.store or ""))
    model = untrained_model(config, store, communicator)
    lanes = training_lanes(config, store, model, communicator)
    number, following = 0, lanes.step(0).batch
    pipe.send({name: tuple(p.shape) for name, p in model.worker.layers.items()})
    while pipe.recv():
        communicator.all_true(True)  # all start together
        communicator.traffic.take()
        rows, start, cpu_start = 0, time.perf_counter(), time.process_time()
        for _ in range(STEPS):
            batch, following = following, lanes.step(number + 1).batch
            model.worker.step(batch, following)
            rows += len(batch.rows)
            number += 1
        seconds = time.perf_counter() - start
        cpu_seconds = time.process_time() - cpu_start
        traffic = communicator.traffic.take()
        pipe.send(Round(seconds, cpu_seconds, traffic.sent, traffic.seconds, rows / STEPS))


def _rates(results: Rounds, users: int) -> dict[str, Any]:
    """Users a second, and what the second worker brings."""
    seconds = {
        size: [max(w.seconds for w in by_worker) / STEPS for by_worker in results[size]]
        for size in results
    }
    cpu_seconds = {
        size: statistics.median(sum(w.cpu_seconds for w in by_worker) for by_worker in of_size)
        for size, of_size in results.items()
    }
    efficiency = [one / (2 * two) for one, two in zip(seconds[1], seconds[2], strict=True)]
    ceiling = [one / two for one, two in zip(seconds[1], seconds[LONE_PAIR], strict=True)]
    return {
        "users_per_s": {size: users / statistics.median(seconds[size]) for size in SIZES},
        "efficiency": statistics.median(efficiency),
        "efficiency_range": [min(efficiency), max(efficiency)],
        "efficiency_of_fastest": min(seconds[1]) / (2 * min(seconds[2])),
        "ceiling": statistics.median(ceiling),
        "cpu_time": cpu_seconds[2] / cpu_seconds[1],
        "cpu_time_of_lone_ones": cpu_seconds[LONE_PAIR] / (2 * cpu_seconds[1]),
    }


def _messages(pairs: list[list[Round]], users: int) -> dict[str, Any]:
    """What two workers send each other, and how long they wait for it."""
    phases = sorted(pairs[0][0].sent.keys() | pairs[0][0].in_messages.keys())
    return {
        "share_in_messages": statistics.median(
            statistics.mean(sum(w.in_messages.values()) / w.seconds for w in by_worker)
            for by_worker in pairs
        ),
        "bytes_per_user": statistics.median(
            sum(sum(w.sent.values()) for w in by_worker) / (STEPS * users) for by_worker in pairs
        ),
        "phases": {
            phase: {
                "bytes_per_step": sum(w.sent.get(phase, 0) for w in pairs[0]) / STEPS,
                "ms_per_step": 1e3
                * statistics.median(
                    statistics.mean(w.in_messages.get(phase, 0.0) for w in by_worker) / STEPS
                    for by_worker in pairs
                ),
            }
            for phase in phases
        },
    }
