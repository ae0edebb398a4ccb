"""The training loop: steps, validation, checkpoints, records; resumable at any step.

All workers of a group run it together; rank 0 keeps the records.
"""

import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from greatmeta_dist.batching.lanes import Lanes, Step
from greatmeta_dist.batching.loader import Loader, with_following
from greatmeta_dist.config import Config
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Bar, Display
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.engine.checkpoint_writer import CheckpointWriter
from greatmeta_dist.engine.communicator import Communicator, Traffic
from greatmeta_dist.engine.coordinator import StepReport
from greatmeta_dist.files import locked, write_json_atomically
from greatmeta_dist.signals import StopRequest, noted_stop_signals
from greatmeta_dist.training.build import build_model
from greatmeta_dist.training.device import rare_garbage_collection
from greatmeta_dist.training.nonfinite import NonfiniteUsers
from greatmeta_dist.training.run_folder import CHECKPOINTS, open_run, require_same_store
from greatmeta_dist.training.saved_model import SavedModel
from greatmeta_dist.training.tracking import (
    NullTracker,
    StepUsers,
    TensorBoardTracker,
    Tracker,
    peak_memory_mib,
)
from greatmeta_dist.training.validation import Validation

LOCK_PATIENCE_S = 60.0
"""How long rank 0 waits for what is left of a group that died."""


def train(
    config: Config,
    run: Path,
    display: Display,
    *,
    communicator: Communicator | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train to ``config.train.steps``, resuming the run if it exists; what ``metrics.json`` holds.

    In a group (``communicator``) all workers call it, inside one process's ``open_run``. A first
    Ctrl-C or SIGTERM, or ``is_stopped`` in any worker, stops after the step that follows, with a
    checkpoint, and raises ``KeyboardInterrupt``.
    """
    if communicator is None:
        with open_run(config, run, display) as config:
            return Training(config, run, display, Communicator(), is_stopped).run()
    if not communicator.is_first:
        return Training(config, run, display, communicator, is_stopped).run()
    taken = f"a worker of an earlier training still writes {run}"
    with locked(run / ".writer", taken, patience_s=LOCK_PATIENCE_S):
        return Training(config, run, display, communicator, is_stopped).run()


class Training:
    """One worker's training of one run."""

    def __init__(
        self,
        config: Config,
        run: Path,
        display: Display,
        communicator: Communicator,
        is_stopped: Callable[[], bool],
    ):
        self.config, self.run_folder, self.display = config, run, display
        self.communicator, self.is_stopped = communicator, is_stopped
        self.store = Store(Path(config.store or ""))
        self.store.check(communicator.rank, communicator.size)
        self.saved = SavedModel.open(run)
        require_same_store(self.saved.store_identity, self.store, run)
        self.model = build_model(config, self.store, self.saved.priors(), communicator)
        scorer = self.model.scorer
        self.lanes = Lanes(
            self.store,
            scorer.collator,
            scorer.feature_spec,
            scorer.grouping,
            config.train,
            rank=communicator.rank,
            world_size=communicator.size,
        )
        self.worker = scorer.worker
        self.worker.keep_averages(self.lanes.user_range, self.lanes.num_users)
        self.validation = Validation(scorer, self.store)
        self.nonfinite = NonfiniteUsers(config, communicator, display)
        self.checkpoints = run / CHECKPOINTS
        self.writer = CheckpointWriter.open(
            self.checkpoints, communicator, keep=config.train.keep_checkpoints
        )

    def run(self) -> dict[str, Any]:
        """Resume, train, and leave the run ready to predict."""
        self._write_workers()
        start, steps = self._resume(), self.config.train.steps
        self.communicator.use_short_timeout()
        if start >= steps:
            self.display.say(
                f"{self.run_folder} is already at step {start}; raise train.steps to go on"
            )
        else:
            self._say_start()
            self._train(start, steps)
        self._fit_blend(max(start, steps))
        metrics = {
            "step": max(start, steps),
            "valid": self.validation.latest,
            "best": self.validation.best,
        }
        if self.communicator.is_first:
            write_json_atomically(self.run_folder / "metrics.json", metrics)
        return metrics

    def _train(self, start: int, steps: int) -> None:
        tracker = self._open_tracker(start)
        device = self.worker.device
        try:
            with (
                noted_stop_signals() as stop,
                rare_garbage_collection(),
                self.display.bar("train", steps, "steps", done=start) as bar,
                Loader.suited(self.lanes, range(start, steps), device) as loader,
            ):
                self._loop(start, loader, tracker, bar, stop)
        finally:
            tracker.close()

    def _loop(
        self,
        start: int,
        batches: Iterable[Step],
        tracker: Tracker,
        bar: Bar,
        stop: StopRequest,
    ) -> None:
        """Every step is one call of the meta step; what else is due comes between steps."""
        options, worker = self.config.train, self.worker
        clock, last_record = time.monotonic(), start
        for step, (tasks, following) in enumerate(with_following(batches), start + 1):
            is_last = step == options.steps
            report = worker.step(
                tasks.batch,
                following.batch if following else None,
                is_stopping=stop.is_received or self.is_stopped(),
            )
            self.nonfinite.collect(report.is_finite if report else None, tasks.user)
            self.writer.check()
            if step % options.log_every == 0 or is_last:
                seconds = time.monotonic() - clock
                self._record(step, report, tasks, (step - last_record, seconds), tracker, bar)
                clock, last_record = time.monotonic(), step
            if step % options.valid_every == 0 or is_last:
                before = time.monotonic()
                self.validation.run(step, tracker)
                clock += time.monotonic() - before
            is_due = step % options.checkpoint_every == 0 or self.validation.is_best(step)
            if worker.is_stopping or is_last or is_due:
                self._save(step, tracker)
            if worker.is_stopping:
                self.writer.wait()
                self._fit_blend(step)
                raise KeyboardInterrupt
        self.writer.wait()

    def _record(
        self,
        step: int,
        report: StepReport | None,
        tasks: Step,
        since_last: tuple[int, float],
        tracker: Tracker,
        bar: Bar,
    ) -> None:
        """Write a step's records; ``since_last`` are steps and seconds since the last ones."""
        by_worker = self.communicator.gather_objects(
            (tasks.group, tasks.num_support, self.communicator.traffic.take())
        )
        self.nonfinite.check(step)
        if report is None or by_worker is None:
            return
        groups, sizes, traffics = zip(*by_worker, strict=True)
        traffic = Traffic.of_all(traffics)
        scorer = self.model.scorer
        loss_scale = None
        if not self.store.manifest.is_click:
            loss_scale = scorer.collator.target_transform.scale**2
        users = StepUsers(np.concatenate(groups), np.concatenate(sizes), scorer.grouping.names)
        tracker.write_step(step, report, users, loss_scale)
        num_steps, seconds = since_last
        rate = num_steps * self.config.train.users_per_batch / seconds
        tracker.write_scalars(
            step,
            {
                "perf/users_per_s": rate,
                "system/peak_memory_mib": peak_memory_mib(),
                **{f"perf/bytes/{k}": v / num_steps for k, v in traffic.sent.items()},
                **{f"perf/seconds/{k}": v / num_steps for k, v in traffic.seconds.items()},
            },
        )
        loss = float(report.user_statistics.losses[report.is_finite, 0].mean())
        shown = (
            f"loss {loss:.4f}" if loss_scale is None else f"rmse {(loss * loss_scale) ** 0.5:.4f}"
        )
        valid = self.validation.latest
        if valid:
            shown += f"  valid {valid['rmse']:.4f}"
        bar.update(step, f"{shown}  {rate:.0f} users/s")

    def _save(self, step: int, tracker: Tracker) -> None:
        start = time.monotonic()
        best = self.validation.best
        state = {
            "best": best,
            "valid": self.validation.latest,
            "store": self.store.identity,
        }
        self.writer.save(
            step,
            self.worker.dense_state(),
            self.worker.blocks(),
            state,
            best=best["step"] if best else None,
        )
        tracker.write_scalars(step, {"perf/seconds_for_snapshot": time.monotonic() - start})

    def _resume(self) -> int:
        """Load the newest whole checkpoint; the step it was made after."""
        found, skipped = checkpoint.load_latest(
            self.checkpoints, self.communicator, wanted=self._hosted()
        )
        for step in skipped:
            self.display.say(f"checkpoint of step {step} is damaged or partial; going further back")
        if found is None:
            if skipped:
                self.display.say("no whole checkpoint is left; starting from step 0")
            return 0
        require_same_store(found.state["store"], self.store, self.run_folder)
        self.worker.load(found.dense, found.tables)
        self.validation.best, self.validation.latest = found.state["best"], found.state["valid"]
        self.display.say(f"resuming {self.run_folder} after step {found.step}")
        return found.step

    def _hosted(self) -> dict[str, range | None]:
        """The entries of each table that this worker holds."""
        return {name: block.entries for name, block in self.worker.blocks().items()}

    def _fit_blend(self, step: int) -> None:
        """Fit the blend weight for the best step's parameters, and save it with the run.

        It ends a training: the worker holds the best parameters from here on.
        """
        scorer = self.model.scorer
        best = self.validation.best["step"] if self.validation.best else step
        is_fitted = self.saved.blend_weight(best) is not None or not scorer.blend.priors
        if self.communicator.broadcast_object(is_fitted):
            return
        self.communicator.all_true(True)  # rank 0 is here, so its checkpoint is whole
        found = checkpoint.load(self.checkpoints, best, self.communicator, wanted=self._hosted())
        if found is None:  # damaged or deleted: predictions will take the newest one, too
            best = step
        elif best != step:
            self.worker.load(found.dense, found.tables)
        self.worker.broadcast_averaged_params()
        total = self.store.manifest.splits.get("valid", 0)
        with self.display.bar("fit the blend weight", total, "users") as bar:
            weight = scorer.fit_blend_weight(
                self.store, lambda split, done, total: bar.update(done, split)
            )
        if weight is not None:
            self.saved.write_blend_weight(best, weight)
        self.communicator.all_true(True)

    def _write_workers(self) -> None:
        """``workers.json``: where each worker runs."""
        here = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "device": str(self.worker.device),
        }
        by_worker = self.communicator.gather_objects(here)
        if by_worker is not None:
            write_json_atomically(self.run_folder / "workers.json", by_worker)

    def _open_tracker(self, start: int) -> Tracker:
        if not self.communicator.is_first:
            return NullTracker()
        sections = ("model", "inner", "scheduler", "train")
        config = asdict(self.config)
        return TensorBoardTracker(
            self.run_folder / "tensorboard",
            purge_step=start + 1 if start else 0,
            hyperparameters={f"{s}.{k}": v for s in sections for k, v in config[s].items()},
            sizes=self.worker.factor_sizes,
        )

    def _say_start(self) -> None:
        size = self.communicator.size
        self.display.say(
            f"training on {self.store.manifest.splits['train']} users, "
            f"{self.lanes.steps_per_epoch} steps an epoch, {self.lanes.count} lanes, "
            f"{size} worker{'s' if size > 1 else ''}, {self.worker.device.type}"
        )
        weighting, collator = self.worker.weighting, self.model.scorer.collator
        description = weighting.describe(collator.target_weights)
        if description is not None:
            self.display.say(description)
