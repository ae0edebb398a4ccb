"""What a training step costs when a few users are very active.

``python -m benchmarks.long_tail [--users 2048] [--rows-each 100] [--rounds 7] [--json FILE]
[--quick]``. Users' activity is log-normal. Every batch has the same number of users and of rows in
all; the wider the tail, the more of these rows the most active user has: 100 rows to 100,000. What
is measured is the making of the batch, the step, and the memory of both, with supports as long as
they are. A last case caps them by the default ``data.max_support``. ``--quick`` is to see that all
works.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.environment import PeakMemory, write_result
from benchmarks.meta_step.timing import median_seconds
from benchmarks.untrained import training_lanes, untrained_model
from greatmeta_dist.batching.lanes import Lanes
from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.engine.worker import Worker
from greatmeta_dist.options.compose import compose_config

LONGEST = (100, 1_000, 10_000, 100_000)
"""Rows of the most active user."""
QUICK_LONGEST = (100, 2_000)
TRAINING = (
    "train.lanes=1",
    "train.short_support_rate=0",
    # Priors cost a step nothing: they are fitted on few items, so that the log is soon ready.
    "priors.bayesian_mf.max_items=500",
    "priors.bayesian_mf.num_passes=6",
    "priors.bayesian_mf.num_starts=1",
    "priors.item_factors.max_items=1000",
)
CAPPED = "capped"


@dataclass(frozen=True)
class Case:
    """All users of a log as one batch."""

    name: str
    sigma: float
    """Width of the tail: the standard deviation of the logarithm of activity."""
    longest_support: int
    num_rows: int
    """Rows of all supports and queries."""
    padded_rows: int
    num_buckets: int
    lanes: Lanes
    worker: Worker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=2048, help="of a batch")
    parser.add_argument("--rows-each", type=int, default=100, help="of a user, on average")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="few users, one round")
    options = parser.parse_args()
    longest: tuple[int, ...] = LONGEST
    if options.quick:
        options.users, options.rounds, longest = 128, 1, QUICK_LONGEST
    with tempfile.TemporaryDirectory() as folder:
        cases = [_case(Path(folder), options, rows, max_support=None) for rows in longest]
        cases.append(_case(Path(folder), options, longest[-1], max_support=1024))
        results = {"cases": measure(cases, options.rounds)}
    _show(results["cases"])
    write_result(options.json, options, results)


def activity(num_users: int, mean: float, longest: int) -> tuple[NDArray[np.int64], float]:
    """Rows of each user [users], at evenly spread quantiles of a log-normal law; and its σ.

    The law's width is such that of ``num_users · mean`` rows the most active user has ``longest``.
    """
    steps = (np.arange(num_users) + 0.5) / num_users
    z = np.array([NormalDist().inv_cdf(float(step)) for step in steps])

    def shares(sigma: float) -> NDArray[np.float64]:
        weight = np.exp(sigma * (z - z[-1]))
        return weight / weight.sum()

    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        is_wider = shares(middle)[-1] * num_users * mean < longest
        low, high = (middle, high) if is_wider else (low, middle)
    rows = np.maximum(2, np.round(shares(low) * num_users * mean).astype(np.int64))
    # Users have two rows at least; what that adds, or rounding, the most active ones give up.
    excess, k = int(rows.sum() - num_users * mean), num_users - 2
    while excess > 0 and k >= 0:
        given = min(excess, int(rows[k]) - 2)
        rows[k], excess, k = rows[k] - given, excess - given, k - 1
    return rows, low


def _case(folder: Path, options: argparse.Namespace, longest: int, max_support: int | None) -> Case:
    """A log, its store, and a model that is ready to take a step of all its users."""
    length, sigma = activity(options.users, options.rows_each, longest)
    name = f"{longest:,}" if max_support is None else f"{longest:,}, {CAPPED} at {max_support:,}"
    log, store_folder = folder / f"{name}.parquet", folder / name
    _write_log(log, length, num_items=int(1.2 * max(LONGEST)))
    config = DataConfig(
        source="parquet",
        path=str(log),
        columns=ColumnsConfig("user", "item", "rating", None),
        valid_fraction=0.0,
        test_fraction=0.0,
        warm_fraction=0.0,
        min_interactions=2,
        max_support=max_support,
    )
    prepare(config, store_folder)
    store = Store(store_folder)
    words = [f"store={store_folder}", f"train.users_per_batch={options.users}", *TRAINING]
    training = compose_config(words)
    model = untrained_model(training, store)
    lanes = training_lanes(training, store, model)
    step = lanes.step(0)
    batches = step.batch.batches
    buckets = [bucket for batch in batches for bucket in batch.supports]
    sets = [bucket.rows for bucket in buckets] + [batch.query for batch in batches]
    return Case(
        name,
        sigma,
        int(step.num_support.max()),
        sum(len(b.support_plan.user) + len(b.query_plan.user) for b in batches),
        sum(rows.item.numel() for rows in sets),
        len(buckets),
        lanes,
        model.worker,
    )


def _write_log(path: Path, length: NDArray[np.int64], *, num_items: int) -> None:
    """Users with so many rows each, about items that are drawn evenly; no item twice."""
    rng = np.random.default_rng(0)
    items = [rng.choice(num_items, n, replace=False) for n in length.tolist()]
    item = np.concatenate(items)
    columns = {
        "user": np.repeat(np.arange(len(length)), length),
        "item": item,
        "rating": rng.integers(1, 6, len(item)).astype(np.float64),
    }
    pl.DataFrame(columns).write_parquet(path)


def measure(cases: list[Case], rounds: int) -> list[dict[str, Any]]:
    """Seconds and memory of every case's batch and step, taken in turns."""
    device = torch.device("cpu")
    batches = [case.lanes.step(0).batch for case in cases]
    calls: list[Callable[[], Any]] = []
    for case, batch in zip(cases, batches, strict=True):
        calls += [partial(case.lanes.step, 0), partial(case.worker.step, batch)]
    seconds = median_seconds(calls, device, rounds=rounds)
    results = []
    for k, (case, batch) in enumerate(zip(cases, batches, strict=True)):
        with PeakMemory(device) as making:
            case.lanes.step(0)
        with PeakMemory(device) as step:
            case.worker.step(batch)
        results.append(
            {
                "longest_user": case.name,
                "sigma": case.sigma,
                "users": case.lanes.num_users,
                "longest_support": case.longest_support,
                "rows": case.num_rows,
                "padded_rows": case.padded_rows,
                "buckets": case.num_buckets,
                "batch_s": seconds[2 * k],
                "step_s": seconds[2 * k + 1],
                "batch_mib": making.mib,
                "step_mib": step.mib,
            }
        )
    return results


def _show(results: list[dict[str, Any]]) -> None:
    """A row for each case; seconds and memory also as a share of the first one's."""
    first = results[0]
    table = Table(box=None, pad_edge=False)
    headings = ["longest user", "σ", "rows", "padded", "buckets", "batch s", "step s", "×", "MiB"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for result in results:
        both = result["batch_s"] + result["step_s"]
        table.add_row(
            result["longest_user"],
            f"{result['sigma']:.2f}",
            f"{result['rows']:,}",
            f"{result['padded_rows']:,}",
            str(result["buckets"]),
            f"{result['batch_s']:.3f}",
            f"{result['step_s']:.3f}",
            f"{both / (first['batch_s'] + first['step_s']):.2f}",
            f"{result['batch_mib'] + result['step_mib']:.0f}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
