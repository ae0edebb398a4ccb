"""What a training tells about its steps: TensorBoard's curves, and the detail beside the bar.

All workers of a group call it together; rank 0 writes.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from greatmeta_dist.batching.lanes import StepTasks
from greatmeta_dist.config import Config
from greatmeta_dist.config.checks import typed_name
from greatmeta_dist.display import Bar
from greatmeta_dist.engine.communicator import Traffic
from greatmeta_dist.engine.coordinator import StepReport
from greatmeta_dist.engine.worker import Worker
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.training.history import History
from greatmeta_dist.training.run_status import TENSORBOARD
from greatmeta_dist.training.summaries import HyperParameter
from greatmeta_dist.training.tracking import NullTracker, StepUsers, TensorBoardTracker, Tracker
from greatmeta_dist.training.usage import UsageMeter, peak_memory_mib, usage_scalars
from greatmeta_dist.training.validation import LOG_LOSS

HYPERPARAMETERS = ("model", "inner", "scheduler", "train", "priors")
"""Sections of the config that TensorBoard's HParams table shows."""
NOT_SET = "null"
"""What stands there for an option without a value, as it is typed."""
T = TypeVar("T")


def open_tracker(run: Path, config: Config, worker: Worker, *, start: int) -> Tracker:
    """Where the numbers of a training go that begins after step ``start``."""
    if not worker.communicator.is_first:
        return NullTracker()
    return TensorBoardTracker(
        run / TENSORBOARD,
        purge_step=start + 1 if start else 0,
        hyperparameters=hyperparameters(config),
        sizes=worker.factor_sizes,
        history=History(run),
        has_gpu=worker.device.type == "cuda",
        is_group=worker.communicator.size > 1,
        is_click=worker.inner.loss == "bce",
    )


def hyperparameters(config: Config) -> dict[str, HyperParameter]:
    """Every option of a training, under its typed name; the same names whatever is set."""
    shown: dict[str, HyperParameter] = {"store": Path(config.store or "").name}
    for section in HYPERPARAMETERS:
        shown |= _options(getattr(config, section), section)
    return shown


def _options(section: Any, prefix: str) -> dict[str, HyperParameter]:
    """A section's options, also those of sections in it."""
    shown: dict[str, HyperParameter] = {}
    for field in fields(section):
        name, value = f"{prefix}.{typed_name(section, field.name)}", getattr(section, field.name)
        if hasattr(value, "__dataclass_fields__"):
            shown |= _options(value, name)
        elif value is None:
            shown[name] = NOT_SET
        else:
            shown[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return shown


class LoopClock:
    """Seconds that the loop spends in each of its phases."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time spent in the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def waits(self, items: Iterable[T], name: str) -> Iterator[T]:
        """The same items; the time until each comes is counted."""
        iterator = iter(items)
        while True:
            with self.phase(name):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def take(self) -> dict[str, float]:
        """What was counted since the last call."""
        taken, self._seconds = self._seconds, {}
        return taken


class StepRecorder:
    """Writes the records of the steps since the last log point."""

    def __init__(self, scorer: Scorer, tracker: Tracker, bar: Bar, *, start: int):
        """``start`` is the step after which the training begins."""
        self._scorer, self._tracker, self._bar = scorer, tracker, bar
        self._communicator = scorer.worker.communicator
        self._last_step, self._clock = start, time.monotonic()
        self._meter = UsageMeter(scorer.worker.device)
        self.phases = LoopClock()
        """The loop counts its phases here."""

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
        with self.phases.phase("records"):
            by_worker = self._communicator.gather_objects(
                (
                    tasks.group,
                    tasks.num_support,
                    self._communicator.traffic.take(),
                    self._meter.look(),
                )
            )
            if report is not None and by_worker is not None:
                groups, sizes, traffics, usages = zip(*by_worker, strict=True)
                users = StepUsers(
                    np.concatenate(groups), np.concatenate(sizes), self._scorer.grouping.names
                )
                self._tracker.write_step(step, report, users, self._loss_scale)
                rate = num_steps * len(report.is_finite) / seconds
                performance = self._performance(num_steps, rate, Traffic.of_all(traffics))
                self._tracker.write_scalars(step, performance | usage_scalars(usages))
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

    def _performance(self, num_steps: int, rate: float, traffic: Traffic) -> dict[str, float]:
        """The rate, and bytes and seconds a step."""
        return {
            "perf/users_per_s": rate,
            "system/peak_memory_mib": peak_memory_mib(),
            **{f"perf/loop/{k}": v / num_steps for k, v in self.phases.take().items()},
            **{f"perf/bytes/{k}": v / num_steps for k, v in traffic.sent.items()},
            **{f"perf/seconds/{k}": v / num_steps for k, v in traffic.seconds.items()},
        }

    def _shown(self, report: StepReport, valid: Mapping[str, float | None]) -> str:
        """The step's RMSE and the last validation's; of clicks, losses."""
        loss = float(report.user_statistics.losses[report.is_finite, 0].mean())
        scale = self._loss_scale
        shown = f"loss {loss:.4f}" if scale is None else f"rmse {(loss * scale) ** 0.5:.4f}"
        of_valid = valid.get(LOG_LOSS if scale is None else "rmse")
        return shown if of_valid is None else f"{shown}  valid {of_valid:.4f}"
