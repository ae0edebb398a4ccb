"""What another worker brings, what crosses the wire, and what many would do.

``python -m benchmarks.scaling [--users 256] [--rounds 7] [--rows 10000000] [--json FILE]
[--gbit 10] [--latency-us 50] [--quick]``. Groups of 1 and 2 workers, each bound to one core, take
the same steps in turns: synthetic data of MovieLens 100K's shape (97 support and 10 query rows a
user, 1,682 items), the shipped configuration, batches built in between. Two lone workers at a time
say what two cores of this machine can do at best. The same with users of uneven activity (107 rows
on average), where workers wait for each other. Then the memory that each worker needs for a table
of ``--rows`` rows of 32, and what a checkpoint costs. Then a model, calibrated from these
measurements, of up to 512 workers and 10⁹ rows. ``--quick`` is to see that all works.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.environment import write_result
from benchmarks.scaling.checkpointing import checkpointing
from benchmarks.scaling.memory import memory
from benchmarks.scaling.model import model
from benchmarks.scaling.tables import show
from benchmarks.scaling.throughput import measure
from greatmeta_dist.config import DataConfig

SHAPES = {
    "ml-100k": DataConfig(
        users=2500,
        items=1682,
        mean_interactions=250,
        min_interactions=107,
        max_support=97,
    ),
    "uneven users": DataConfig(
        users=4000, items=1682, mean_interactions=107, min_interactions=13, max_query_fraction=1.0
    ),
}
QUICK_USERS = 400
SAVED = 1_000_000
"""Embedding rows, and training users with factor averages, of a measured checkpoint."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=256, help="of a step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--gbit", type=float, default=10.0)
    parser.add_argument("--latency-us", type=float, default=50.0)
    parser.add_argument("--quick", action="store_true", help="small data, one round")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.users, options.rounds, options.rows = 32, 1, 100_000
    results = measure_all(options)
    show(results, vars(options), Console(width=100))
    write_result(options.json, options, results)


def measure_all(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is printed, by name."""
    shapes, saved = SHAPES, SAVED
    if options.quick:
        shapes = {name: replace(data, users=QUICK_USERS) for name, data in SHAPES.items()}
        saved = SAVED // 100
    results: dict[str, Any] = {"measured": {}, "rows": options.rows}
    for name, data in shapes.items():
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(data, options.users, options.rounds, Path(folder))
            results["measured"][name] = measured
    with tempfile.TemporaryDirectory() as folder:
        results["memory"] = memory(options.rows, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        data = shapes["ml-100k"]
        results["checkpoint"] = checkpointing(data, Path(folder), num_rows=saved, num_users=saved)
    results["model"] = model(results["measured"]["ml-100k"], options.gbit, options.latency_us)
    return results


if __name__ == "__main__":
    main()
