"""Whether TensorBoard stays usable with many long runs, and what recording costs.

``python -m benchmarks.tensorboard.many_runs [--runs 300] [--steps 12000] [--log-every 20]
[--loader fast|python] [--json FILE]``. Writes runs as a training does, with users drawn by chance,
starts a TensorBoard of them, and times what a browser asks for. The runs have the same curves and
different options. They need about 4 MB of disk each.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.environment import write_result
from benchmarks.tensorboard.server import Board, served
from greatmeta_dist.config import Config, TrainConfig
from greatmeta_dist.engine.coordinator import StepReport
from greatmeta_dist.meta.factors import FactorSizes
from greatmeta_dist.meta.user_statistics import UserStatistics
from greatmeta_dist.training.event_file import write_end, write_header
from greatmeta_dist.training.history import History
from greatmeta_dist.training.records import hyperparameters
from greatmeta_dist.training.run_status import STATUS
from greatmeta_dist.training.summaries import end_value, layout_value, start_value
from greatmeta_dist.training.tags import first_page
from greatmeta_dist.training.tracking import StepUsers, TensorBoardTracker

USERS, GROUPS = 32, [f"group {k}" for k in range(8)]
LOAD_S = 500.0
"""How long the runs may take to be loaded."""
SIZES = FactorSizes(magnitude=2, gap=16, agreement=22, context=24)
SPLITS = ("valid", "warm", "user_cold", "item_cold", "both_cold")
METRICS = ("rmse", "mae", "ndcg@1", "ndcg@3", "ndcg@5", "ndcg@10", "minority_rmse")
PHASES = ("fetch rows", "mean gradient", "factors", "weights", "gradient", "layers", "control")


def main() -> None:
    """Write, serve, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--loader", choices=("fast", "python"), default="fast")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = write_runs(folder, options.runs, options.steps, options.log_every)
        start = time.monotonic()
        with served(folder, is_fast=options.loader == "fast") as board:
            results["seconds_to_answer"] = time.monotonic() - start
            results |= measure(board, options.runs, options.steps)
    for key, value in results.items():
        print(f"{key:60} {value:12,.4f}")
    write_result(options.json, options, {"results": results})


def write_runs(folder: Path, num_runs: int, steps: int, log_every: int) -> dict[str, float]:
    """Write one run as a training does, and copies of it with other options."""
    first = folder / "0" / "tensorboard"
    first.parent.mkdir()
    seconds, num_points = write_curves(first, steps, log_every)
    for number in range(num_runs):
        run = folder / str(number) / "tensorboard"
        if number:
            shutil.copytree(first, run)
        rate = 1e-3 * (1 + number)
        config = Config(train=TrainConfig(learning_rate=rate / (1 + rate), seed=number))
        page = first_page(has_scheduler=True, has_gpu=False, is_group=True, is_click=False)
        start = start_value(hyperparameters(config), time.time())
        write_header(run, [layout_value(page), start])
        write_end(run, steps, [end_value(STATUS["done"], time.time())])
    num_bytes = sum(path.stat().st_size for path in first.iterdir())
    return {
        "ms_to_record_a_point": 1e3 * seconds / num_points,
        "points_a_run": num_points,
        "mb_a_run": num_bytes / 1e6,
        "kb_a_point": num_bytes / 1e3 / num_points,
    }


def write_curves(folder: Path, steps: int, log_every: int) -> tuple[float, int]:
    """Write a run's curves; the seconds that this took, and the log points."""
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    tracker = TensorBoardTracker(
        folder, purge_step=0, hyperparameters={}, sizes=SIZES, history=History(folder.parent)
    )
    seconds = 0.0
    for step in range(log_every, steps + 1, log_every):
        report = draw_report(generator)
        users = StepUsers(rng.integers(0, 8, USERS, np.int32), rng.geometric(0.02, USERS), GROUPS)
        scalars = performance(rng)
        if step % 100 == 0:
            scalars |= validation(rng)
        start = time.perf_counter()
        tracker.write_step(step, report, users, 1.0)
        tracker.write_scalars(step, scalars)
        if step % 100 == 0:
            tracker.write_event(step, "checkpoint", "the best so far: validation RMSE 0.7836")
        seconds += time.perf_counter() - start
    tracker.close()
    return seconds, steps // log_every


def draw_report(generator: torch.Generator) -> StepReport:
    """A step of users drawn by chance."""

    def draw(columns: int) -> torch.Tensor:
        return torch.randn(USERS, columns, generator=generator)

    weights = torch.softmax(draw(1).squeeze(1) / 4, 0)
    statistics = UserStatistics(draw(2).abs(), torch.ones(USERS), draw(SIZES.total))
    return StepReport(statistics, weights, weights)


def performance(rng: np.random.Generator) -> dict[str, float]:
    """What a log point of a group of workers says besides its users."""
    names = [
        "perf/users_per_s",
        "system/peak_memory_mib",
        "system/workers",
        "system/processors",
        "system/memory_mib/all",
        "system/memory_mib/largest",
        *(f"perf/{kind}/{phase}" for kind in ("bytes", "seconds") for phase in PHASES),
        *(f"perf/loop/{phase}" for phase in ("step", "validation", "records", "wait")),
    ]
    return {name: float(rng.random()) for name in names}


def validation(rng: np.random.Generator) -> dict[str, float]:
    """What a validation says."""
    names = [f"val/{split}/{metric}" for split in SPLITS for metric in METRICS]
    names += [f"val/{split}/rmse_by_group/{group}" for split in SPLITS for group in GROUPS]
    names += [f"best/{name}" for name in ("rmse", "mae", "minority_rmse", "ndcg@10", "step")]
    return {name: float(rng.random()) for name in names}


def measure(board: Board, num_runs: int, steps: int) -> dict[str, float]:
    """Seconds until all is loaded, and of what a browser asks for."""
    last = f"{sorted(map(str, range(num_runs)))[-1]}/tensorboard"

    def is_loaded() -> bool:
        if len(board.get("runs")) < num_runs:
            return False
        shown = board.get("plugin/scalars/scalars", run=last, tag="train/loss")
        return bool(shown) and shown[-1][1] == steps

    results = {"seconds_to_load_all_runs": board.wait_until(is_loaded, patience_s=LOAD_S)}
    results["processor_seconds_to_load_all_runs"] = board.processor_s()
    asked: dict[str, Callable[[], object]] = {
        "list of runs": lambda: board.get("runs"),
        "time series, list of cards": lambda: board.get("plugin/timeseries/tags"),
        "custom scalars, layout": lambda: board.get("plugin/custom_scalars/layout"),
        "custom scalars, one chart of one run": lambda: board.get(
            "plugin/custom_scalars/scalars", run=last, tag="val/valid/rmse_by_group/.*$"
        ),
        "histograms, one of one run": lambda: board.get(
            "plugin/histograms/histograms", run=last, tag="meta/weights"
        ),
        "hparams, columns": lambda: board.post(
            "plugin/hparams/experiment", {"experimentName": "", "includeMetrics": True}
        ),
        "hparams, the 100 rows of a page": lambda: board.session_groups(100),
    }
    for name, ask in asked.items():
        start, busy = time.perf_counter(), board.processor_s()
        ask()
        results[f"seconds: {name}"] = time.perf_counter() - start
        # Beside other work on the machine this tells more than the time on the clock.
        results[f"processor seconds: {name}"] = board.processor_s() - busy
    return results


if __name__ == "__main__":
    main()
