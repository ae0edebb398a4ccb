"""The training loop: steps, validation, checkpoints, records; resumable at any step.

All workers of a group run it together; rank 0 keeps the records.
"""

import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from greatmeta_dist.batching.lanes import Lanes
from greatmeta_dist.batching.loader import Loader, with_following
from greatmeta_dist.config import Config
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Bar, Display
from greatmeta_dist.engine.communicator import Communicator, PeerLost
from greatmeta_dist.engine.worker import Worker
from greatmeta_dist.files import locked, write_json_atomically
from greatmeta_dist.signals import StopRequest, noted_stop_signals
from greatmeta_dist.storage.local_copy import local_folder
from greatmeta_dist.training.build import Model, build_model
from greatmeta_dist.training.device import make_heap_room, rare_garbage_collection
from greatmeta_dist.training.earlier_run import EarlierRun
from greatmeta_dist.training.history import History
from greatmeta_dist.training.nonfinite import NonfiniteUsers
from greatmeta_dist.training.records import StepRecorder, open_tracker
from greatmeta_dist.training.regroup import Regroup, Regrouping, Requests
from greatmeta_dist.training.run_checkpoints import RunCheckpoints
from greatmeta_dist.training.run_copy import fetch_start, folder_to_read, write_back_records
from greatmeta_dist.training.run_folder import open_run, require_same_store, write_workers
from greatmeta_dist.training.run_status import RUNNING, STATUS_TAG
from greatmeta_dist.training.saved_model import SavedModel
from greatmeta_dist.training.tracking import Tracker
from greatmeta_dist.training.validation import Validation

CHECKED_STEPS = 2
"""Steps whose batches are checked when a group starts (``engine/batch_invariance.py``)."""
LOCK_PATIENCE_S = 60.0
"""How long rank 0 waits for what is left of a group that died."""


def train(
    config: Config,
    run: Path,
    display: Display,
    *,
    communicator: Communicator | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
    regroup: Callable[[], Regroup | None] = lambda: None,
) -> dict[str, Any]:
    """Train to ``config.train.steps``, resuming the run if it exists; what ``metrics.json`` holds.

    In a group (``communicator``) all workers call it, while one process holds ``open_run``. A first
    Ctrl-C or SIGTERM, or ``is_stopped`` in any worker, stops after the step that follows, with a
    checkpoint and a blend weight, and raises ``KeyboardInterrupt``. ``regroup`` in any worker ends
    it there too, with the checkpoint alone, and raises ``Regrouping``.
    """
    requests = Requests(is_stopped, regroup)
    if communicator is None:
        with open_run(config, run, display) as config:
            return Training.open(config, run, display, Communicator()).run(requests)
    # Rank 0 of an earlier group, which was taken for dead, may still be writing.
    taken = f"a worker of an earlier training still writes {run}"
    with (
        locked(run / ".writer", taken, patience_s=LOCK_PATIENCE_S)
        if communicator.is_first
        else nullcontext()
    ):
        return Training.open(config, run, display, communicator).run(requests)


@dataclass
class Training:
    """One worker's part in the training of a run."""

    config: Config
    run_folder: Path
    display: Display
    saved: SavedModel
    model: Model
    lanes: Lanes
    validation: Validation
    checkpoints: RunCheckpoints
    is_interrupted: bool = False
    """Whether any worker was asked to stop while it trained."""
    regroup: Regroup | None = None
    """Why another group goes on, where one does."""

    @classmethod
    def open(
        cls, config: Config, run: Path, display: Display, communicator: Communicator
    ) -> "Training":
        """Build a fresh model and what trains it; all workers call it together.

        Raises ``InputError`` where the store is damaged, or not the one that the run was made for.
        """
        store = Store(local_folder(config.store or ""))
        store.check(communicator.rank, communicator.size)
        fetch_start(run, is_first=communicator.is_first)
        saved = SavedModel.open(run)
        require_same_store(saved.store_identity, store, run)
        saved.catalogue()  # a run that cannot predict is not worth its training
        model = build_model(config, store, saved.priors(), communicator)
        scorer = model.scorer
        lanes = Lanes(
            store,
            scorer.collator,
            scorer.feature_spec,
            scorer.grouping,
            config.train,
            rank=communicator.rank,
            world_size=communicator.size,
            padding=model.worker.padding,
        )
        model.worker.keep_averages(lanes.user_range, lanes.num_users)
        validation = Validation(scorer, store)
        checkpoints = RunCheckpoints.open(
            run, store, model.worker, validation, keep=config.train.keep_checkpoints
        )
        return cls(config, run, display, saved, model, lanes, validation, checkpoints)

    @property
    def worker(self) -> Worker:
        return self.model.worker

    def _check_batches(self, first_step: int) -> None:
        """Try out on the first steps whether lanes may share a batch; else part them.

        All workers call it together, and part them where one has to.
        """
        lanes = self.lanes
        if lanes.lanes_per_batch == 1:
            return
        is_invariant = all(
            self.worker.is_batch_invariant(lanes.step(number).batch, other.batch)
            for number in range(first_step, first_step + CHECKED_STEPS)
            for other in (
                lanes.step(number, lanes_per_batch=1),
                lanes.step(number, is_furthest=True),
            )
        )
        if not self.worker.communicator.all_true(is_invariant):
            lanes.lanes_per_batch = 1
            self.display.say(
                "lanes are computed one after another, which takes longer: with this model and "
                "this machine's libraries a user's results depend on who shares the batch"
            )

    def _check_native(self, first_step: int) -> None:
        """Try out on the first step whether the compiled code is everywhere, and right; else adapt
        without it.

        All workers call it together, for their bits must not depend on who adapts a user.
        """
        if self.config.cluster.adaptation != "native":
            return
        is_right = self.worker.is_native_right(self.lanes.step(first_step).batch)
        if not self.worker.communicator.all_true(is_right):
            self.worker.adapt_by_torch()
            self.display.say(
                "users adapt by torch's operations, which takes longer: a worker lacks the "
                "compiled code, or gets other results from it; installing greatmeta_dist where "
                "there is a C compiler (gcc) compiles it"
            )

    def run(self, requests: Requests) -> dict[str, Any]:
        """Resume, train, and leave the run ready to predict; what ``metrics.json`` holds."""
        communicator = self.worker.communicator
        write_workers(self.run_folder, communicator, self.worker.device)
        step = self.checkpoints.resume(self.display)
        is_new, step = step is None, step or 0
        if is_new and self.config.train.from_run is not None:
            earlier = EarlierRun.open(folder_to_read(self.config.train.from_run))
            self.checkpoints.start_from(earlier, self.config)
        if step < self.config.train.steps:
            self._say_start()
            self._check_native(step)
            self._check_batches(step)
            communicator.use_short_timeout()
            step = self._train(step, requests, is_new=is_new)
            communicator.use_long_timeout()
            if self.regroup is not None:
                self._make_way(self.regroup)
        else:
            self.display.say(
                f"{self.run_folder} is already at step {step}; raise train.steps to go on"
            )
        self._write_blend_weight(step)
        is_done = step >= self.config.train.steps
        best, latest = self.validation.best, self.validation.latest
        metrics = {"step": step, "valid": latest, "best": best}
        if communicator.is_first and is_done:
            write_json_atomically(self.run_folder / "metrics.json", metrics)
        if communicator.is_first:
            write_back_records(self.run_folder)
        if self.is_interrupted:
            if is_done:
                self.display.say(f"stopped in the last step: {self.run_folder} is complete")
            raise KeyboardInterrupt
        return metrics

    def _train(self, start: int, requests: Requests, *, is_new: bool) -> int:
        """Train from step ``start`` on, until all steps are done or a stop; the last step done.

        A new run that goes on from another is scored, and saved, before its first step: that may be
        its best, and from here on it does not need the other run.
        """
        steps = self.config.train.steps
        make_heap_room()
        tracker = open_tracker(self.run_folder, self.config, self.worker, start=start)
        with (
            closing(tracker),
            noted_stop_signals() as stop,
            rare_garbage_collection(),
            self.display.bar("train", steps, "steps", done=start) as bar,
            Loader.suited(self.lanes, range(start, steps), self.worker.device) as batches,
        ):
            self._write_start(start, tracker)
            if is_new and self.config.train.from_run is not None:
                self.validation.run(start, tracker)
                self._save(start, tracker)
            try:
                step = self._take_steps(start, batches, tracker, bar, stop, requests)
            except PeerLost as error:
                # At a step that the next training does not take anew, or it would be dropped.
                last = History(self.run_folder).last_step
                tracker.write_event(last, "death", str(error).partition("\n")[0])
                raise
            self.checkpoints.writer.wait()
            # A stop may have come in or after the last step, of which no step has told the others.
            is_ending, communicator = self.worker.is_stopping, self.worker.communicator
            regroup = requests.agreed_regroup(communicator) if is_ending else None
            is_stopping = stop.is_received or requests.is_stopped()
            is_stopping = is_stopping or (is_ending and regroup is None)
            self.is_interrupted = not communicator.all_true(not is_stopping)
            if regroup is not None and step < steps and not self.is_interrupted:
                tracker.write_event(step, regroup.kind, regroup.reason)
                self.display.say(f"{regroup.reason}: another group goes on after step {step}")
                self.regroup = regroup
        return step

    def _make_way(self, regroup: Regroup) -> NoReturn:
        """Leave what remains to another group, which goes on from this step's checkpoint."""
        communicator = self.worker.communicator
        if communicator.is_first:
            write_back_records(self.run_folder)
        communicator.all_true(True)  # once one worker ends, the others are soon killed
        raise Regrouping(regroup.reason)

    def _take_steps(
        self,
        start: int,
        batches: Loader,
        tracker: Tracker,
        bar: Bar,
        stop: StopRequest,
        requests: Requests,
    ) -> int:
        """Every step is one call of the meta step; what else is due comes between steps."""
        options, worker, step = self.config.train, self.worker, start
        nonfinite = NonfiniteUsers(self.config, worker.communicator, self.display)
        recorder = StepRecorder(self.model.scorer, tracker, bar, start=start)
        phases = recorder.phases
        tasks_of_steps = phases.waits(with_following(batches), "wait for batch")
        for step, (tasks, following) in enumerate(tasks_of_steps, start + 1):
            with phases.phase("step"):
                report = worker.step(
                    tasks.batch,
                    following.batch if following else None,
                    is_stopping=stop.is_received or requests.any(),
                )
            nonfinite.collect(report.is_finite if report else None, tasks.user)
            self.checkpoints.writer.check()
            is_last = step == options.steps
            if step % options.log_every == 0 or is_last:
                recorder.write(step, report, tasks, self.validation.latest)
                nonfinite.check(step)  # after the records, which show what makes it stop
            if step % options.valid_every == 0 or is_last:
                with recorder.paused(), phases.phase("validation"):
                    self.validation.run(step, tracker)
            is_due = step % options.checkpoint_every == 0 or self.validation.is_best(step)
            if worker.is_stopping or is_last or is_due:
                with phases.phase("checkpoint"):
                    self._save(step, tracker)
            if worker.is_stopping:
                break
        return step

    def _save(self, step: int, tracker: Tracker) -> None:
        start = time.monotonic()
        self.checkpoints.save(step)
        tracker.write_scalars(step, {"perf/seconds_for_snapshot": time.monotonic() - start})
        is_best = self.validation.is_best(step)
        text = f"the best so far: {self.validation.describe_best()}" if is_best else ""
        tracker.write_event(step, "checkpoint", text)

    def _write_start(self, start: int, tracker: Tracker) -> None:
        """Write that a training begins after step ``start``, and with how many workers."""
        size, device = self.worker.communicator.size, self.worker.device.type
        kind = History(self.run_folder).kind_of_start(start)
        workers = f"{size} worker{'s' if size > 1 else ''} ({device})"
        tracker.write_event(start, kind, f"{workers}, to step {self.config.train.steps}")
        tracker.write_scalars(start, {STATUS_TAG: RUNNING})

    def _write_blend_weight(self, step: int) -> None:
        """Fit the blend weight for the best step's parameters, and save it with the run.

        ``step`` is the one whose parameters the worker holds; from here on it holds the best
        step's. Nothing is written where that step has its weight, or nothing is blended.
        """
        scorer = self.model.scorer
        if not scorer.blend.priors:
            return
        best = self.validation.best["step"] if self.validation.best else step
        # Where the best checkpoint is damaged or deleted, predictions take the newest one, too.
        if best != step and not self.checkpoints.load_parameters(best):
            best = step
        if self.worker.communicator.broadcast_object(self.saved.blend_weight(best) is not None):
            return
        self.worker.broadcast_averaged_params()
        self.display.say("fitting the blend weight to the validation users")
        weight = scorer.fit_blend_weight(self.checkpoints.store)
        if weight is not None:
            self.saved.write_blend_weight(best, weight)

    def _say_start(self) -> None:
        """Say who is trained on, and where."""
        size, manifest = self.worker.communicator.size, self.checkpoints.store.manifest
        self.display.say(
            f"training on {manifest.splits['train']} users, "
            f"{self.lanes.steps_per_epoch} steps an epoch, {self.lanes.count} lanes, "
            f"{size} worker{'s' if size > 1 else ''}, {self.worker.device.type}"
        )
        target_weights = self.model.scorer.collator.target_weights
        description = self.worker.weighting.describe(target_weights)
        if description is not None:
            self.display.say(description)
