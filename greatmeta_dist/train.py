"""The training loop: steps, validation, checkpoints, records; resumable at any step."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from greatmeta_dist.config import Config, InputError, require
from greatmeta_dist.display import Display
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.engine.worker import Sizes, Worker
from greatmeta_dist.evaluate import group_summaries, score_part
from greatmeta_dist.locks import locked
from greatmeta_dist.meta.step import StepReport
from greatmeta_dist.tasks.lanes import BatchMaker, Labels, Lanes, Step, even_balance
from greatmeta_dist.tasks.loader import Loader
from greatmeta_dist.tasks.split import SCENARIOS
from greatmeta_dist.tasks.store import FieldChoice, Store
from greatmeta_dist.tracking import StepUsers, TensorBoardTracker, Tracker, peak_memory_mib

MAY_CHANGE = ("steps", "checkpoint_every", "keep_checkpoints", "log_every")
"""Options of ``train`` that a resumed run may set anew."""
MAX_WATCHED_USERS = 512
"""Scenarios with more users are not scored while training."""


@dataclass(frozen=True)
class Setup:
    """A worker with the store it learns from."""

    config: Config
    store: Store
    choice: FieldChoice
    maker: BatchMaker
    worker: Worker


def set_up(config: Config, store: Store) -> Setup:
    """A fresh worker for a store, on the GPU where there is one."""
    if config.cluster.threads is not None:
        torch.set_num_threads(config.cluster.threads)
    torch.backends.cuda.matmul.allow_tf32 = config.cluster.precision != "float32"
    model = config.model
    choice = FieldChoice(model.has_item_id, model.is_list_mean)
    maker = BatchMaker(
        store.item_features(choice),
        has_support_gradient=model.has_encoder and model.context == "support",
        has_row_norms=config.scheduler.kind in ("mlp", "lstm")
        and config.scheduler.magnitude == "norm",
        labels=Labels.of(store, model.label),
        prior_rows=config.inner.prior_rows,
        balance=even_balance(store.manifest.cluster_sizes, config.scheduler.evenness),
    )
    sizes = Sizes(
        len(store.fields("user", choice)),
        len(store.fields("item", choice)),
        store.manifest.num_rows,
        "bce" if store.manifest.is_click else "mse",
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Setup(config, store, choice, maker, Worker(config, sizes, device))


def load_run(run: Path, store: Path | None, display: Display) -> tuple[Setup, int]:
    """A run with its best parameters, and their step; raises ``InputError`` if there are none."""
    config = saved_config(run)
    require(
        config is not None,
        f"{run} holds no run (no config.yaml); run: greatmeta train store=DIR run={run}",
    )
    assert config is not None
    setup = set_up(config, Store(store or Path(config.store or "")))
    chosen, skipped = checkpoint.load_latest(run / "checkpoints")
    require(chosen is not None, f"{run} has no whole checkpoint yet; run greatmeta train run={run}")
    assert chosen is not None
    _say_skipped(skipped, display)
    _require_same_store(chosen, setup.store, run)
    best = chosen.state["best"]
    if best and best["step"] != chosen.step:
        found = checkpoint.load(run / "checkpoints", best["step"])
        if found is None:
            display.say(
                f"the best checkpoint, of step {best['step']}, is damaged or gone; "
                f"taking step {chosen.step}"
            )
        chosen = found or chosen
    setup.worker.load(chosen.dense, chosen.rows)
    return setup, chosen.step


def _say_skipped(steps: list[int], display: Display) -> None:
    for step in steps:
        display.say(f"checkpoint of step {step} is damaged or partial; going further back")


def _require_same_store(found: checkpoint.Checkpoint, store: Store, run: Path) -> None:
    require(
        found.state["store"] == store.identity,
        f"{run} was trained on another store than {store.folder} now is (its data was prepared "
        "anew); prepare that data as before, or start a new run=DIR",
    )


def saved_config(run: Path) -> Config | None:
    """The config a run was started with."""
    path = run / "config.yaml"
    if not path.exists():
        return None
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except Exception as error:
        raise InputError(f"{path} is not a config of this version: {error}") from error


def train(config: Config, run: Path, display: Display) -> dict[str, Any]:
    """Train to ``config.train.steps``, resuming the run if it exists; what ``metrics.json`` holds.

    A first Ctrl-C (or SIGTERM) stops after the step at hand, with a checkpoint, and raises
    ``KeyboardInterrupt``.
    """
    require(config.store is not None, "store=DIR is not set; name the folder that prepare made")
    store = Store(Path(config.store or ""))
    _require_own(run, config)
    training = _Training(set_up(config, store), run, display)
    run.mkdir(parents=True, exist_ok=True)
    with locked(run / ".lock", f"another training writes {run}"):
        _save_config(run, config)
        return training.run()


def _save_config(run: Path, config: Config) -> None:
    partial = run / "config.yaml.partial"
    settings = {k: v for k, v in asdict(config).items() if k != "data"}
    settings["store"] = str(Path(config.store or "").resolve())
    OmegaConf.save(OmegaConf.create(settings), partial)
    partial.rename(run / "config.yaml")


def _require_own(run: Path, config: Config) -> None:
    """A folder is a run's if it is new or empty, holds no checkpoint yet, or this config's."""
    before = saved_config(run)
    if before is None:
        require(
            not run.exists() or (run.is_dir() and not any(run.iterdir())),
            f"run={run} exists and is no run; choose an empty or new folder",
        )
        return
    if not checkpoint.steps(run / "checkpoints"):
        return
    old, new = asdict(before), asdict(config)
    differ = [
        f"{section}.{name} was {old[section][name]}, is {value}"
        for section in ("model", "inner", "scheduler", "train")
        for name, value in new[section].items()
        if old[section][name] != value and not (section == "train" and name in MAY_CHANGE)
    ]
    require(
        not differ,
        f"{run} is a run with another config: {'; '.join(differ[:6])}. "
        "Choose another run=DIR, or leave these options out",
    )


class _Training:
    """One process's training of one run."""

    def __init__(self, setup: Setup, run: Path, display: Display):
        self.setup, self.run_folder, self.display = setup, run, display
        self.config = setup.config.train
        self.checkpoints = run / "checkpoints"
        self.lanes = Lanes.of(setup.store, setup.maker, setup.choice, self.config)
        self.best: dict[str, Any] | None = None
        self.valid: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        start = self._resume()
        steps = self.config.steps
        if start >= steps:
            self.display.say(
                f"{self.run_folder} is already at step {start}; raise train.steps to go on"
            )
            return self._metrics(start)
        tracker = TensorBoardTracker(
            self.run_folder / "tensorboard",
            purge_step=start + 1 if start else 0,
            hyperparameters=_flat(asdict(self.setup.config)),
            sizes=self.setup.worker.sizes,
        )
        self.display.say(
            f"training on {self.setup.store.manifest.parts['train']} users, "
            f"{self.lanes.steps_per_epoch} steps an epoch, {len(self.lanes.lanes)} lanes, "
            f"{self.setup.worker.device}"
        )
        try:
            with (
                _stop_signals() as stop,
                self.display.bar("train", steps, "steps", done=start) as bar,
                Loader.suited(self.lanes, range(start, steps), self.setup.worker.device) as loader,
            ):
                self._loop(start, steps, loader, tracker, bar, stop)
        finally:
            tracker.close()
        return self._metrics(steps)

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
        users_per_step = self.config.users_per_step
        clock, since = time.monotonic(), start
        for step, tasks in enumerate(loader, start + 1):
            report = self.setup.worker.step(tasks.batch)
            if step % self.config.log_every == 0 or step == steps:
                rate = (step - since) * users_per_step / (time.monotonic() - clock)
                self._log(step, report, tasks, rate, tracker, bar)
                clock, since = time.monotonic(), step
            is_last = step == steps or bool(stop)
            if step % self.config.valid_every == 0 or step == steps:
                before = time.monotonic()
                self._validate(step, tracker)
                clock += time.monotonic() - before
            if is_last or self._is_due(step):
                self._save(step)
            if stop:
                raise KeyboardInterrupt

    def _is_due(self, step: int) -> bool:
        is_best = self.best is not None and self.best["step"] == step
        return is_best or step % self.config.checkpoint_every == 0

    def _log(
        self, step: int, report: StepReport, tasks: Step, rate: float, tracker: Tracker, bar: Any
    ) -> None:
        loss = float(report.losses[:, 0].mean())
        if not np.isfinite(loss):
            raise RuntimeError(
                f"the loss is {loss} at step {step}: training diverged; lower inner.rate "
                f"(now {self.setup.config.inner.rate:g}) or train.rate (now {self.config.rate:g})"
            )
        scale = self.setup.maker.labels.scale**2
        is_click = self.setup.store.manifest.is_click
        users = StepUsers(
            tasks.group,
            tasks.num_support,
            self.setup.store.manifest.groups,
        )
        tracker.train(step, report, users, None if is_click else scale)
        tracker.scalars(
            step, {"perf/users_per_s": rate, "system/peak_memory_mib": peak_memory_mib()}
        )
        valid = f"  valid {self.valid['rmse']:.4f}" if self.valid else ""
        shown = f"loss {loss:.4f}" if is_click else f"rmse {(loss * scale) ** 0.5:.4f}"
        bar.update(step, f"{shown}{valid}  {rate:.0f} users/s")

    def _validate(self, step: int, tracker: Tracker) -> None:
        """Score the validation users, and watch every scenario that is not too large.

        Only the validation users decide which checkpoint is best.
        """
        setup, manifest = self.setup, self.setup.store.manifest
        for part in ("valid", *SCENARIOS):
            num_users = manifest.parts.get(part, 0)
            if not num_users or (part != "valid" and num_users > MAX_WATCHED_USERS):
                continue
            scored = score_part(setup.worker, setup.store, setup.maker, setup.choice, part)
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
                if self.best is None or found["rmse"] < self.best["rmse"]:
                    self.best = {"step": step, **found}

    def _save(self, step: int) -> None:
        worker = self.setup.worker
        state = {"best": self.best, "valid": self.valid, "store": self.setup.store.identity}
        checkpoint.save(self.checkpoints, step, worker.dense_state(), worker.row_state(), state)
        best = self.best["step"] if self.best else None
        checkpoint.prune(self.checkpoints, keep=self.config.keep_checkpoints, besides=best)

    def _resume(self) -> int:
        """Load the newest whole checkpoint; the step it was made after."""
        found, skipped = checkpoint.load_latest(self.checkpoints)
        _say_skipped(skipped, self.display)
        if found is None:
            return 0
        _require_same_store(found, self.setup.store, self.run_folder)
        self.setup.worker.load(found.dense, found.rows)
        self.best, self.valid = found.state["best"], found.state["valid"]
        self.display.say(f"resuming {self.run_folder} after step {found.step}")
        return found.step

    def _metrics(self, step: int) -> dict[str, Any]:
        metrics = {"step": step, "valid": self.valid, "best": self.best}
        partial = self.run_folder / "metrics.json.partial"
        partial.write_text(json.dumps(metrics, indent=1))
        partial.rename(self.run_folder / "metrics.json")
        return metrics


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects a first Ctrl-C or SIGTERM; the second one ends the process as usual."""
    received: list[int] = []
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
