"""Real trainings of a large store by several workers, beside what the model predicts for them.

``python -m benchmarks.scaling.trainings --work DIR [--rows 100000000] [--items 100000]
[--exponent 1.2] [--workers 1 4 8] [--users 1024] [--steps 5] [--gbit 10] [--latency-us 50] [--json
FILE]``. Writes a synthetic log of so many rows, 30 a user, items by Zipf's law with that exponent
(0: all alike, so that nearly all are met), prepares it, and trains on it with ``greatmeta train``:
``--steps`` steps before a checkpoint, and as many after it. Then each run is resumed for as many
steps more. The smallest group calibrates the model, which predicts the others: users a second for
as many processors as the group had (workers may be more than cores, and the machine may be busy),
memory a worker, bytes a step. Then it predicts 8 to 512 workers and 10⁹ rows, with as many users a
worker as the largest group that was measured.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.environment import write_result
from benchmarks.prepare.logs import NUM_ITEMS, ZIPF_EXPONENT, write_log
from benchmarks.scaling.model import FLOAT_BYTES, Step, bytes_per_row, one_row_layers, predict
from benchmarks.scaling.tables import model_table
from benchmarks.untrained import untrained_model
from greatmeta_dist.batching.lanes import Lanes
from greatmeta_dist.config import ModelConfig
from greatmeta_dist.data.store import Store
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.training.device import rare_garbage_collection

LARGE = (8, 32, 128, 512)
SMALL_PRIORS = (
    "priors.item_factors.max_ratings=1000000",
    "priors.bayesian_mf.max_ratings=200000",
    "priors.bayesian_mf.max_start_ratings=100000",
    "priors.bayesian_mf.max_items=5000",
    "priors.bayesian_mf.num_starts=1",
    "priors.user_groups.max_users=5000",
    "priors.user_groups.num_starts=1",
)
"""Priors are not measured here."""
MIB = 2**20
NUM_BATCHES = 2
"""Batches whose distinct rows are counted."""
OF_FAST = ("sums of A", "if fast", "saves")
"""Columns of the model that compare ways to sum A, which is not looked at here."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="a folder with room for the log")
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--items", type=int, default=NUM_ITEMS, help="of the log, at most")
    parser.add_argument("--exponent", type=float, default=ZIPF_EXPONENT)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--users", type=int, default=1024, help="of a step")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--gbit", type=float, default=10.0)
    parser.add_argument("--latency-us", type=float, default=50.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = measure_all(options)
    show(results, options, Console(width=120))
    write_result(options.json, options, results)


def measure_all(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is printed, by name."""
    options.work.mkdir(parents=True, exist_ok=True)
    store, prepare_s = prepared_store(options)
    runs: dict[int, dict[str, float]] = {}
    for size in options.workers:
        runs[size] = train(store, options, size)
        print(f"{size} workers: {runs[size]}", flush=True)  # all takes long, and may be stopped
    shapes = {size: step_of(store, options, size) for size in options.workers}
    manifest = store.manifest
    return {
        "prepare_s": prepare_s,
        "training_users": manifest.splits["train"],
        "rows": manifest.num_rows,
        "store_mib": sum(p.stat().st_size for p in store.folder.rglob("*") if p.is_file()) / MIB,
        "runs": runs,
        "predicted": predicted(runs, shapes, store),
        "model": large(runs, shapes, options),
    }


def prepared_store(options: argparse.Namespace) -> tuple[Store, float | None]:
    """The store of a log, and the seconds that preparing it took; None where it was there."""
    folder = options.work / "store"
    if (folder / "manifest.json").exists():
        return Store(folder), None
    log = write_log(
        options.work,
        options.rows,
        "parquet",
        num_items=options.items,
        exponent=options.exponent,
    )
    start = time.monotonic()
    _greatmeta("prepare", "data=parquet", f"data.path={log}", f"store={folder}")
    return Store(folder), time.monotonic() - start


def train(store: Store, options: argparse.Namespace, size: int) -> dict[str, float]:
    """Train with a group of this size and resume it; what TensorBoard has of both."""
    run, steps = options.work / f"run-{size}", options.steps
    words = _words(store, options, size)
    every = [f"train.{name}_every={steps}" for name in ("checkpoint", "log")]
    every += [f"train.valid_every={100 * steps}", "train.keep_checkpoints=2"]
    _greatmeta("train", f"run={run}", *words, *every, f"train.steps={2 * steps}")
    first = _scalars(run)
    restarted = time.time()
    _greatmeta("train", f"run={run}", f"train.steps={3 * steps}")
    status = _events(run).Scalars("system/status")
    resumed = next(e.wall_time for e in status if e.wall_time > restarted)
    folder = run / checkpoint.FOLDER / f"step-{2 * steps:09d}"
    files = [path for path in folder.rglob("*") if path.is_file()]
    snapshot = _events(run).Scalars("perf/seconds_for_snapshot")
    begun = next(e.wall_time for e in snapshot if e.step == 2 * steps)
    written = max(path.stat().st_mtime for path in files) - begun
    sent = sum(value for tag, value in first.items() if tag.startswith("perf/bytes/"))
    checkpoint_mib = sum(path.stat().st_size for path in files) / MIB
    shutil.rmtree(run / checkpoint.FOLDER)  # of many rows they fill a disk
    return {
        "users_per_s": first["perf/users_per_s"],
        "processors": first["system/processors"],
        # Of the resumed run: the first one may have fitted priors in one of its processes.
        "mib_a_worker": _scalars(run)["system/memory_mib/all"] / size,
        "bytes_a_step": sent,
        "checkpoint_mib": checkpoint_mib,
        "checkpoint_waits_s": first["perf/seconds_for_snapshot"],
        "checkpoint_written_s": max(written, 0.0) + first["perf/seconds_for_snapshot"],
        "resumed_after_s": resumed - restarted,
    }


def step_of(store: Store, options: argparse.Namespace, size: int) -> Step:
    """What a worker of a group touches and sends; the seconds it computes are not known yet."""
    config = compose_config(_words(store, options, max(options.workers)))
    config = replace(config, train=replace(config.train, lanes=_lanes(options)))
    model = untrained_model(config, store)
    scorer, worker = model.scorer, model.worker
    lanes = Lanes(
        store, scorer.collator, scorer.feature_spec, scorer.grouping, config.train,
        rank=0, world_size=size,
    )  # fmt: skip
    with rare_garbage_collection():
        rows = [len(lanes.step(k).batch.rows) for k in range(NUM_BATCHES)]
    return Step(
        users=options.users / size,
        compute_s=0.0,
        rows=sum(rows) / NUM_BATCHES,
        columns=worker.factor_sizes.total + 2,  # and both losses
        parameters_of_a=sum(p.numel() for p in worker.layers.values()),
        one_row_layers=one_row_layers({name: p.shape for name, p in worker.layers.items()}),
    )


def predicted(
    runs: dict[int, dict[str, float]], shapes: dict[int, Step], store: Store
) -> dict[int, dict[str, float]]:
    """What the smallest group says of each: rates for the processors that each group had."""
    smallest = min(runs)
    base = runs[smallest]
    per_processor = base["users_per_s"] / base["processors"]
    # Rows with their optimizer state; each training user's averages of the factors, and a counter.
    manifest, averages = store.manifest, FLOAT_BYTES * (shapes[smallest].columns - 2 + 1)
    shared_mib = manifest.num_rows * bytes_per_row(ModelConfig().embedding_dim) / MIB
    shared_mib += manifest.splits["train"] * averages / MIB
    fixed_mib = base["mib_a_worker"] - shared_mib / smallest
    written = base["checkpoint_mib"] / base["checkpoint_written_s"]
    predictions = {}
    for size, run in runs.items():
        step = shapes[size]
        sent = size * _sent(size, step) if size > 1 else 0.0
        # A worker's counters have a broadcast once, however many it reaches.
        sent -= max(size - 2, 0) * FLOAT_BYTES * step.parameters_of_a
        predictions[size] = {
            "users_per_s": per_processor * run["processors"],
            "mib_a_worker": fixed_mib + shared_mib / size,
            "bytes_a_step": sent,
            "checkpoint_written_s": run["checkpoint_mib"] / written,
            "resumed_after_s": base["resumed_after_s"] * max(1.0, size / _cores()),
        }
    return predictions


def large(
    runs: dict[int, dict[str, float]], shapes: dict[int, Step], options: argparse.Namespace
) -> list[dict[str, float]]:
    """8 to 512 workers, each on a processor of its own, with the largest group's users a worker."""
    base, step = runs[min(runs)], shapes[max(runs)]
    compute_s = step.users * base["processors"] / base["users_per_s"]
    step = replace(step, compute_s=compute_s)
    return [predict(size, step, options.gbit, options.latency_us) for size in LARGE]


def show(results: dict[str, Any], options: argparse.Namespace, console: Console) -> None:
    """Print everything."""
    took = results["prepare_s"]
    console.print(
        f"{options.rows:,} interactions, {results['training_users']:,} training users, "
        f"{results['rows']:,} embedding rows of {ModelConfig().embedding_dim}, "
        f"{results['store_mib']:,.0f} MiB of store"
        + ("" if took is None else f", prepared in {took:.0f} s")
        + f"; {_cores()} cores, {options.users} users a step",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    columns = ("workers", "processors", "users/s", "MiB a worker", "MB a step",
               "checkpoint MiB", "waits s", "written s", "resumed s")  # fmt: skip
    table = Table(*columns, box=SIMPLE, title="measured (model)")
    for size, run in results["runs"].items():
        model = results["predicted"][size]
        table.add_row(
            f"{size}",
            f"{run['processors']:.2f}",
            f"{run['users_per_s']:.0f} ({model['users_per_s']:.0f})",
            f"{run['mib_a_worker']:.0f} ({model['mib_a_worker']:.0f})",
            f"{run['bytes_a_step'] / 1e6:.2f} ({model['bytes_a_step'] / 1e6:.2f})",
            f"{run['checkpoint_mib']:.0f}",
            f"{run['checkpoint_waits_s']:.2f}",
            f"{run['checkpoint_written_s']:.1f} ({model['checkpoint_written_s']:.1f})",
            f"{run['resumed_after_s']:.0f} ({model['resumed_after_s']:.0f})",
        )
    console.print(table)
    table = model_table(
        results["model"], gbit=options.gbit, latency_us=options.latency_us, without=OF_FAST
    )
    console.print(table)


def _sent(size: int, step: Step) -> float:
    """Bytes that a worker sends in a step."""
    return predict(size, replace(step, compute_s=1.0), 1.0, 0.0)["bytes_per_user"] * step.users


def _words(store: Store, options: argparse.Namespace, size: int) -> list[str]:
    words = [f"store={store.folder}", *SMALL_PRIORS, "cluster.threads=1"]
    words += [f"train.users_per_batch={options.users}", f"train.lanes={_lanes(options)}"]
    return [*words, *([f"cluster.workers={size}"] if size > 1 else [])]


def _lanes(options: argparse.Namespace) -> int:
    """As many as the largest group has workers: all groups take the same steps."""
    return max(8, *options.workers)


def _greatmeta(*words: str) -> None:
    command = [sys.executable, "-m", "greatmeta_dist", *words]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def _events(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()


def _scalars(run: Path) -> dict[str, float]:
    """The last value of each curve."""
    events = _events(run)
    return {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}


def _cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
