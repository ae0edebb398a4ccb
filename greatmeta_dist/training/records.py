"""What a training tells about its steps: TensorBoard's curves, and the detail beside the bar.

All workers of a group call it together; rank 0 writes.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from greatmeta_dist.batching.lanes import StepTasks
from greatmeta_dist.config import Config
from greatmeta_dist.display import Bar
from greatmeta_dist.engine.communicator import Traffic
from greatmeta_dist.engine.coordinator import StepReport
from greatmeta_dist.engine.worker import Worker
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.training.tracking import (
    NullTracker,
    StepUsers,
    TensorBoardTracker,
    Tracker,
    peak_memory_mib,
)
from greatmeta_dist.training.validation import LOG_LOSS

HYPERPARAMETERS = ("model", "inner", "scheduler", "train")
"""Sections of the config that TensorBoard's HParams table shows."""


def open_tracker(run: Path, config: Config, worker: Worker, *, start: int) -> Tracker:
    """Where the numbers of a training go that begins after step ``start``."""
    if not worker.communicator.is_first:
        return NullTracker()
    options = asdict(config)
    return TensorBoardTracker(
        run / "tensorboard",
        purge_step=start + 1 if start else 0,
        hyperparameters={f"{s}.{k}": v for s in HYPERPARAMETERS for k, v in options[s].items()},
        sizes=worker.factor_sizes,
    )


class StepRecorder:
    """Writes the records of the steps since the last log point."""

    def __init__(self, scorer: Scorer, tracker: Tracker, bar: Bar, *, start: int):
        """``start`` is the step after which the training begins."""
        self._scorer, self._tracker, self._bar = scorer, tracker, bar
        self._communicator = scorer.worker.communicator
        self._last_step, self._clock = start, time.monotonic()

    def write(
        self,
        step: int,
        report: StepReport | None,
        tasks: StepTasks,
        valid: Mapping[str, float | None],
    ) -> None:
        """Write a log point: this step's users, and the rate since the last one.

        ``valid`` are the last validation's numbers, if there was one. ``report`` is rank 0's.
        """
        num_steps, seconds = step - self._last_step, time.monotonic() - self._clock
        by_worker = self._communicator.gather_objects(
            (tasks.group, tasks.num_support, self._communicator.traffic.take())
        )
        if report is not None and by_worker is not None:
            groups, sizes, traffics = zip(*by_worker, strict=True)
            users = StepUsers(
                np.concatenate(groups), np.concatenate(sizes), self._scorer.grouping.names
            )
            self._tracker.write_step(step, report, users, self._loss_scale)
            rate = num_steps * len(report.is_finite) / seconds
            self._write_performance(step, num_steps, rate, Traffic.of_all(traffics))
            self._bar.update(step, f"{self._shown(report, valid)}  {rate:.0f} users/s")
        self._last_step, self._clock = step, time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time spent in the block, such as a validation, out of the rate."""
        start = time.monotonic()
        yield
        self._clock += time.monotonic() - start

    @property
    def _loss_scale(self) -> float | None:
        """What makes a loss a squared error of ratings; None for clicks."""
        transform = self._scorer.collator.target_transform
        return None if transform.is_click else transform.scale**2

    def _write_performance(self, step: int, num_steps: int, rate: float, traffic: Traffic) -> None:
        """Write the rate, and bytes and seconds a step."""
        self._tracker.write_scalars(
            step,
            {
                "perf/users_per_s": rate,
                "system/peak_memory_mib": peak_memory_mib(),
                **{f"perf/bytes/{k}": v / num_steps for k, v in traffic.sent.items()},
                **{f"perf/seconds/{k}": v / num_steps for k, v in traffic.seconds.items()},
            },
        )

    def _shown(self, report: StepReport, valid: Mapping[str, float | None]) -> str:
        """The step's RMSE and the last validation's; of clicks, losses."""
        loss = float(report.user_statistics.losses[report.is_finite, 0].mean())
        scale = self._loss_scale
        shown = f"loss {loss:.4f}" if scale is None else f"rmse {(loss * scale) ** 0.5:.4f}"
        of_valid = valid.get(LOG_LOSS if scale is None else "rmse")
        return shown if of_valid is None else f"{shown}  valid {of_valid:.4f}"
