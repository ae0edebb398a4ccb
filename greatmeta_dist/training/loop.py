"""The training loop: steps, validation, checkpoints, records; resumable at any step.

All workers of a group run it together; rank 0 keeps the records.
"""

import itertools
import json
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from greatmeta_dist.batching.lanes import Lanes, Step
from greatmeta_dist.batching.loader import Loader, with_following
from greatmeta_dist.config import Config
from greatmeta_dist.data.split import SCENARIOS
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.engine.communicator import Communicator, Traffic
from greatmeta_dist.engine.coordinator import StepReport
from greatmeta_dist.evaluation.evaluate import MAX_VALID_USERS, group_summaries, score_part
from greatmeta_dist.files import locked
from greatmeta_dist.training.run_folder import open_run, require_same_store, say_skipped, set_up
from greatmeta_dist.training.tracking import (
    NullTracker,
    StepUsers,
    TensorBoardTracker,
    Tracker,
    peak_memory_mib,
)

MAX_WATCHED_USERS = 512
"""Scenarios with more users are not scored while training."""
MAX_NAMED_USERS = 10
"""Users who count nothing are named up to this many at a time."""
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

    Of a group (``communicator``), all workers call it, inside one process's ``open_run``. A first
    Ctrl-C (or SIGTERM), or ``is_stopped`` in any of them, stops after the step that follows, with
    a checkpoint, and raises ``KeyboardInterrupt``.
    """
    if communicator is None:
        with open_run(config, run) as config:
            return _Training(config, run, display, Communicator(), is_stopped).run()
    if not communicator.is_first:
        return _Training(config, run, display, communicator, is_stopped).run()
    taken = f"a worker of an earlier training still writes {run}"
    with locked(run / ".writer", taken, patience_s=LOCK_PATIENCE_S):
        return _Training(config, run, display, communicator, is_stopped).run()


class _Training:
    """One worker's training of one run."""

    def __init__(
        self,
        config: Config,
        run: Path,
        display: Display,
        communicator: Communicator,
        is_stopped: Callable[[], bool],
    ):
        store = Store(Path(config.store or ""))
        store.check(communicator.rank, communicator.size)
        self.setup = set_up(config, store, communicator)
        self.run_folder, self.display = run, display
        self.communicator, self.is_stopped = communicator, is_stopped
        self.config = config.train
        self.checkpoints = run / "checkpoints"
        self.lanes = Lanes.of(
            store,
            self.setup.collator,
            self.setup.choice,
            self.config,
            rank=communicator.rank,
            size=communicator.size,
        )
        self.setup.worker.keep_averages(self.lanes.places, self.lanes.num_users)
        self.best: dict[str, Any] | None = None
        self.valid: dict[str, float] = {}
        self.is_finite: list[torch.Tensor] = []
        """[users] of each step since the last record, who was finite; on rank 0."""
        self.met: list[list[str]] = []
        """The users of each of these steps that are hosted here."""
        self.left_out: set[str] = set()
        """Users named because they did not count."""

    def run(self) -> dict[str, Any]:
        self.writer = checkpoint.Writer(
            self.checkpoints, self.communicator, keep=self.config.keep_checkpoints
        )
        self._say_who()
        start = self._resume()
        self.communicator.use_short_timeout()
        steps = self.config.steps
        if start >= steps:
            self.display.say(
                f"{self.run_folder} is already at step {start}; raise train.steps to go on"
            )
            return self._metrics(start)
        tracker = self._tracker(start)
        worker = self.setup.worker
        self.display.say(
            f"training on {self.setup.store.manifest.parts['train']} users, "
            f"{self.lanes.steps_per_epoch} steps an epoch, {self.lanes.count} lanes, "
            f"{self.communicator.size} worker{'s' if self.communicator.size > 1 else ''}, {worker.device.type}"
        )
        description = worker.weighting.describe(self.setup.collator.balance)
        if description is not None:
            self.display.say(description)
        try:
            with (
                _stop_signals() as stop,
                self.display.bar("train", steps, "steps", done=start) as bar,
                Loader.suited(self.lanes, range(start, steps), worker.device) as loader,
            ):
                self._loop(start, steps, loader, tracker, bar, stop)
        finally:
            tracker.close()
        return self._metrics(steps)

    def _say_who(self) -> None:
        """``workers.json``: where each worker runs."""
        device = self.setup.worker.device
        own = {"host": socket.gethostname(), "pid": os.getpid(), "device": str(device)}
        everyone = self.communicator.gather_objects(own)
        if everyone is not None:
            partial = self.run_folder / "workers.json.partial"
            partial.write_text(json.dumps(everyone, indent=1))
            partial.rename(self.run_folder / "workers.json")

    def _tracker(self, start: int) -> Tracker:
        if not self.communicator.is_first:
            return NullTracker()
        return TensorBoardTracker(
            self.run_folder / "tensorboard",
            purge_step=start + 1 if start else 0,
            hyperparameters=_flat(asdict(self.setup.config)),
            sizes=self.setup.worker.factor_sizes,
        )

    def _loop(
        self,
        start: int,
        steps: int,
        loader: Loader,
        tracker: Tracker,
        bar: Any,
        stop: list[int],
    ) -> None:
        """Steps ``start`` to ``steps``; every step is one call of the meta step."""
        clock, since = time.monotonic(), start
        worker = self.setup.worker
        for step, (tasks, following) in enumerate(with_following(loader), start + 1):
            report = worker.step(
                tasks.batch,
                following.batch if following else None,
                is_stopping=bool(stop) or self.is_stopped(),
            )
            if report is not None:
                self.is_finite.append(report.is_finite)
            self.met.append(tasks.user)
            self.writer.check()
            if step % self.config.log_every == 0 or step == steps:
                self._log(step, report, tasks, (step - since, clock), tracker, bar)
                clock, since = time.monotonic(), step
            if step % self.config.valid_every == 0 or step == steps:
                before = time.monotonic()
                self._validate(step, tracker)
                clock += time.monotonic() - before
            if worker.is_stopping or step == steps or self._is_due(step):
                self._save(step, tracker)
            if worker.is_stopping:
                self.writer.wait()
                raise KeyboardInterrupt
        self.writer.wait()

    def _is_due(self, step: int) -> bool:
        is_best = self.best is not None and self.best["step"] == step
        return is_best or step % self.config.checkpoint_every == 0

    def _log(
        self,
        step: int,
        report: StepReport | None,
        tasks: Step,
        since: tuple[int, float],
        tracker: Tracker,
        bar: Any,
    ) -> None:
        """Records of a step; ``since`` are the steps since the last and when that was."""
        own = tasks.group, tasks.num_support, self.communicator.traffic.take()
        everyone = self.communicator.gather_objects(own)
        num_steps, clock = since
        seconds = time.monotonic() - clock
        self._require_few_left_out(step)
        if report is None or everyone is None:
            return
        *parts, traffics = zip(*everyone, strict=True)
        group, num_support = (np.concatenate(part) for part in parts)
        traffic = Traffic.of_all(traffics)
        scale = self.setup.collator.target_transform.scale**2
        is_click = self.setup.store.manifest.is_click
        users = StepUsers(group, num_support, self.setup.store.manifest.groups)
        tracker.train(step, report, users, None if is_click else scale)
        rate = num_steps * self.config.users_per_batch / seconds
        tracker.scalars(
            step,
            {
                "perf/users_per_s": rate,
                "system/peak_memory_mib": peak_memory_mib(),
                **{f"perf/bytes/{k}": v / num_steps for k, v in traffic.sent.items()},
                **{f"perf/seconds/{k}": v / num_steps for k, v in traffic.seconds.items()},
            },
        )
        loss = float(report.user_statistics.losses[report.is_finite, 0].mean())
        valid = f"  valid {self.valid['rmse']:.4f}" if self.valid else ""
        shown = f"loss {loss:.4f}" if is_click else f"rmse {(loss * scale) ** 0.5:.4f}"
        bar.update(step, f"{shown}{valid}  {rate:.0f} users/s")

    def _require_few_left_out(self, step: int) -> None:
        """Name the users who counted nothing since the last record; stop if they are too many.

        All workers call it: each knows the names of its own.
        """
        is_out, met = None, self.met
        if self.communicator.is_first:
            is_out = (~torch.stack(self.is_finite)).cpu()
        self.is_finite, self.met = [], []
        if not self.communicator.broadcast_object(is_out is not None and bool(is_out.any())):
            return
        everyone = self.communicator.gather_objects(met)
        if everyone is None or is_out is None:
            return
        share = float(is_out.double().mean())
        limit = self.config.max_nonfinite_fraction
        places = is_out.nonzero().tolist()
        if share > limit:
            places = places[:MAX_NAMED_USERS]
        names = [list(itertools.chain(*of_step)) for of_step in zip(*everyone, strict=True)]
        new = sorted({names[number][at] for number, at in places} - self.left_out)
        self.left_out.update(new[:MAX_NAMED_USERS])  # others when they are met again
        if new:
            more = f" and {len(new) - MAX_NAMED_USERS} more" if len(new) > MAX_NAMED_USERS else ""
            self.display.say(
                f"left out, for their loss or gradient is not finite (to step {step}): "
                f"users {', '.join(new[:MAX_NAMED_USERS])}{more}"
            )
        if share > limit:
            raise RuntimeError(
                f"the loss or gradient of {share:.1%} of the users is not finite, to step {step}, "
                f"and train.max_nonfinite_fraction is {limit:g}: training diverged, or the data "
                f"holds extreme values; lower inner.learning_rate (now {self.setup.config.inner.learning_rate:g}) or "
                f"train.learning_rate (now {self.config.learning_rate:g}), or mend these users"
            )

    def _validate(self, step: int, tracker: Tracker) -> None:
        """Score the validation users, and watch every scenario that is not too large.

        Only the validation users decide which checkpoint is best.
        """
        setup, manifest = self.setup, self.setup.store.manifest
        setup.worker.broadcast_averaged_params()
        for part in ("valid", *SCENARIOS):
            num_users = manifest.parts.get(part, 0)
            if not num_users or (part != "valid" and num_users > MAX_WATCHED_USERS):
                continue
            scored = score_part(
                setup.worker,
                setup.store,
                setup.collator,
                setup.choice,
                part,
                most=MAX_VALID_USERS,
            )
            if scored is None:
                continue
            found = scored.models["adapted"].summary()
            tracker.scalars(step, {f"val/{part}/{k}": v for k, v in found.items()})
            groups = group_summaries(scored, manifest.groups, manifest.minority)
            by_group = {
                f"val/{part}/rmse_by_group/{name}": g["models"]["adapted"]["rmse"]
                for name, g in groups["by_group"].items()
            }
            if "minority" in groups:
                rmse = groups["minority"]["models"]["adapted"]["rmse"]
                by_group[f"val/{part}/minority_rmse"] = rmse
            tracker.scalars(step, by_group)
            if part == "valid":
                self.valid = found
                is_better = self.best is None or found["rmse"] < self.best["rmse"]
                if is_better and math.isfinite(found["rmse"]):
                    self.best = {"step": step, **found}
        self.best, self.valid = self.communicator.broadcast_object((self.best, self.valid))

    def _save(self, step: int, tracker: Tracker) -> None:
        start = time.monotonic()
        worker, best = self.setup.worker, self.best["step"] if self.best else None
        state = {"best": self.best, "valid": self.valid, "store": self.setup.store.identity}
        self.writer.save(step, worker.dense_state(), worker.blocks(), state, best=best)
        tracker.scalars(step, {"perf/seconds_for_snapshot": time.monotonic() - start})

    def _resume(self) -> int:
        """Load the newest whole checkpoint; the step it was made after."""
        blocks = self.setup.worker.blocks()
        own = {name: block.entries for name, block in blocks.items()}
        found, skipped = checkpoint.load_latest(self.checkpoints, self.communicator, wanted=own)
        say_skipped(skipped, self.display)
        if found is None:
            if skipped:
                self.display.say("no whole checkpoint is left; starting from step 0")
            return 0
        require_same_store(found.state, self.setup.store, self.run_folder)
        self.setup.worker.load(found.dense, found.tables)
        self.best, self.valid = found.state["best"], found.state["valid"]
        self.display.say(f"resuming {self.run_folder} after step {found.step}")
        return found.step

    def _metrics(self, step: int) -> dict[str, Any]:
        metrics = {"step": step, "valid": self.valid, "best": self.best}
        if self.communicator.is_first:
            partial = self.run_folder / "metrics.json.partial"
            partial.write_text(json.dumps(metrics, indent=1))
            partial.rename(self.run_folder / "metrics.json")
        return metrics


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects a first Ctrl-C or SIGTERM; the second one ends the process as usual.

    Off the main thread, where Ray runs a worker, signals are not ours.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: Any) -> None:
        received.append(number)
        for s, handler in before.items():
            signal.signal(s, handler)

    for s in before:
        signal.signal(s, note)
    try:
        yield received
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    sections = ("model", "inner", "scheduler", "train")
    return {f"{s}.{k}": v for s in sections for k, v in config[s].items()}
