"""What a sweep's jobs came to, read from their folders."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from greatmeta_dist.options.names import all_options
from greatmeta_dist.sweep.folder import Job, SweepFolder
from greatmeta_dist.sweep.job import INTERRUPTED, PREFIX
from greatmeta_dist.training.run_config import CONFIG
from greatmeta_dist.training.run_folder import LOG
from greatmeta_dist.training.run_status import METRICS

EVALUATION = "evaluation.json"
LOSSES = {"log_loss": "log loss", "rmse": "RMSE"}
"""What the best step has least of: clicks' loss where there is one, else ratings'."""
TAIL_BYTES = 2000

Status = Literal["done", "failed", "stopped", "unfinished"]


@dataclass(frozen=True)
class Result:
    """One job, and how far it is."""

    job: Job
    status: Status
    best: dict[str, Any] | None
    """The best step and its validation metrics; None where there is none."""
    scenarios: dict[str, dict[str, float | None]]
    """The adapted model's metrics by scenario; empty until it is evaluated at its best step."""
    message: str = ""
    """Why it failed."""

    @property
    def loss(self) -> float | None:
        """What the best step was chosen by."""
        return None if self.best is None else self.best[loss_name(self.best)]


def read_results(folder: SweepFolder) -> list[Result]:
    """Every job's result, in the order in which the jobs were named first."""
    return [read_result(folder, job) for job in folder.jobs.values()]


def read_result(folder: SweepFolder, job: Job) -> Result:
    """A job's result."""
    run = folder.run(job)
    metrics, evaluation = _json(run / METRICS), _json(run / EVALUATION)
    if metrics is None:
        status, message = _unfinished(run)
        return Result(job, status, None, {}, message)
    best = metrics["best"]
    is_current = evaluation is not None and best is not None and evaluation["step"] == best["step"]
    scenarios = {
        name: scenario["models"]["adapted"]
        for name, scenario in (evaluation["scenarios"] if evaluation and is_current else {}).items()
    }
    return Result(job, "done", best, scenarios)


def trained_steps(run: Path) -> int:
    """The steps of a run that is complete; 0 for another."""
    metrics = _json(run / METRICS)
    return 0 if metrics is None else int(metrics["step"])


def loss_name(best: dict[str, Any]) -> str:
    """The metric that the best step was chosen by."""
    return next(name for name in LOSSES if name in best)


def describe_best(best: dict[str, Any]) -> str:
    """``RMSE 0.9265 at step 600``."""
    name = loss_name(best)
    return f"{LOSSES[name]} {best[name]:.4f} at step {best['step']}"


def last_line(run: Path) -> str:
    """The last line that a job has printed; empty where there is none."""
    try:
        with (run / LOG).open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def option_value(folder: SweepFolder, job: Job, key: str) -> str:
    """A job's value of an option that is swept in some jobs; empty where that is not known."""
    if key in job.values:
        return job.values[key]
    try:
        value = yaml.safe_load((folder.run(job) / CONFIG).read_text())
        for name in (all_options()[key].path if key in all_options() else key).split("."):
            value = value[name]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return ""
    return "" if isinstance(value, dict) else json.dumps(value).strip('"')


def _unfinished(run: Path) -> tuple[Status, str]:
    """The state of a run that is not complete, by the last line that it has printed."""
    line = last_line(run)
    if not line.startswith(PREFIX):
        return "unfinished", ""
    message = line.removeprefix(PREFIX)
    return ("stopped", "") if message == INTERRUPTED else ("failed", message)


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value
