"""Where a sweep's jobs come from: all combinations of the values, or a search by Optuna."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.errors import InputError
from greatmeta_dist.options.compose import compose_job
from greatmeta_dist.options.sweep_words import Range, SweepWords, job_name
from greatmeta_dist.sweep.folder import Job
from greatmeta_dist.sweep.plan import Plan
from greatmeta_dist.sweep.processes import Task
from greatmeta_dist.sweep.results import Result, read_result, trained_steps

NeedOf = Callable[[ClusterConfig], dict[str, float]]
DIGITS = 4
"""Significant digits of a drawn number in a run's name; the option itself has all of them."""


@dataclass
class Combinations:
    """The jobs of a plan that are not complete."""

    plan: Plan
    need_of: NeedOf
    on_end: Callable[[Result], None]
    tasks: list[Task] = field(default_factory=list)

    def __post_init__(self) -> None:
        tasks = [_task(self.plan, job, self.need_of) for job in self.plan.jobs]
        self.tasks = [task for task in tasks if task is not None]
        self.total = len(self.plan.jobs)
        self.done = self.total - len(self.tasks)
        self._waiting = iter(self.tasks)

    def next_task(self) -> Task | None:
        return next(self._waiting, None)

    def ended(self, task: Task) -> None:
        self.on_end(read_result(self.plan.folder, task.job))


class Search:
    """Jobs whose values Optuna chooses: small losses of earlier ones draw later ones near.

    A trial's draw depends on the seed, on its number, and on the results before it. So a search
    that was stopped, one job at a time, goes on with the very values that it would have had.
    Raises ``InputError`` where Optuna is not installed.
    """

    def __init__(self, plan: Plan, need_of: NeedOf, on_end: Callable[[Result], None]) -> None:
        self.plan, self.total = plan, plan.options.budget or 0
        self._need_of, self._on_end = need_of, on_end
        self._optuna = _import_optuna()
        self._distributions = _distributions(self._optuna, plan.words)
        self._study = self._optuna.create_study(direction="minimize")
        self._trials: dict[str, Any] = {}
        """Optuna's trial of each job that this command has drawn."""
        tasks = [_task(plan, job, need_of) for job in plan.jobs]
        self._again = [task for task in tasks if task is not None]
        """Trials that were begun by an earlier command, and are not complete."""
        self._next_trial = len(plan.jobs)
        self.done = len(plan.jobs) - len(self._again)
        self._tell_earlier()

    def next_task(self) -> Task | None:
        if self._again:
            return self._again.pop(0)
        if self._next_trial >= self.total:
            return None
        number, self._next_trial = self._next_trial, self._next_trial + 1
        self._study.sampler = self._sampler(number)
        trial = self._study.ask(self._distributions)
        values = {
            key: _text(value, self.plan.words.ranges.get(key))
            for key, value in sorted(trial.params.items())
        }
        job = self._add(values, number)
        self._trials[job.name] = trial
        task = _task(self.plan, job, self._need_of)
        assert task is not None
        return task

    def ended(self, task: Task) -> None:
        result = read_result(self.plan.folder, task.job)
        loss = result.loss if result.status == "done" else None
        is_number = loss is not None and math.isfinite(loss)
        trial = self._trials.pop(task.job.name, None)
        if trial is None:
            self._tell(result)
        elif is_number:
            self._study.tell(trial, loss)
        else:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        self._on_end(result)

    def _sampler(self, number: int) -> Any:
        seed = self.plan.options.seed + number
        is_parallel = self.plan.options.parallel != 1
        # Else jobs that run side by side would all be drawn near the same point.
        return self._optuna.samplers.TPESampler(seed=seed, constant_liar=is_parallel)

    def _add(self, values: dict[str, str], number: int) -> Job:
        """Record a new trial, before it starts: its folder's name and its values."""
        words = self.plan.words.words(values)
        short = {
            key: _short(text) if key in self.plan.words.ranges else text
            for key, text in values.items()
        }
        name = f"trial-{number:03d},{job_name(short)}"
        job = self.plan.folder.add(values, name, compose_job(words), number)
        self.plan.folder.write()
        return job

    def _tell_earlier(self) -> None:
        """Tell Optuna what is known already, also from a sweep over combinations of the same."""
        for job in self.plan.folder.jobs.values():
            result = read_result(self.plan.folder, job)
            if result.status == "done":
                self._tell(result)

    def _tell(self, result: Result) -> None:
        """Tell Optuna of a job that it did not draw, or not in this command."""
        loss, values = result.loss, result.job.values
        if loss is None or not math.isfinite(loss) or values.keys() != self._distributions.keys():
            return
        parameters = {
            key: _value(text, self.plan.words.ranges.get(key)) for key, text in values.items()
        }
        if all(_is_in(parameters[key], key, self.plan.words) for key in parameters):
            self._study.add_trial(
                self._optuna.trial.create_trial(
                    params=parameters, distributions=self._distributions, value=loss
                )
            )


def _task(plan: Plan, job: Job, need_of: NeedOf) -> Task | None:
    """What a job needs to start; None where it is complete."""
    run, config = plan.folder.run(job), plan.config_of(job)
    if trained_steps(run) >= config.train.steps:
        return None
    return Task(job, run, config, need_of(config.cluster))


def _import_optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise InputError(
            f"sweep.budget needs Optuna, and it is not installed ({error}); "
            "pip install 'greatmeta_dist[sweep]', or list values with commas and leave it out"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _distributions(optuna: Any, words: SweepWords) -> dict[str, Any]:
    """What Optuna draws each option from."""
    of = optuna.distributions
    drawn: dict[str, Any] = {key: of.CategoricalDistribution(v) for key, v in words.values.items()}
    for key, r in words.ranges.items():
        if r.is_whole:
            step = int(r.step or 1)
            drawn[key] = of.IntDistribution(int(r.low), int(r.high), log=r.is_log, step=step)
        else:
            drawn[key] = of.FloatDistribution(r.low, r.high, log=r.is_log, step=r.step)
    return dict(sorted(drawn.items()))


def _text(value: Any, drawn_from: Range | None) -> str:
    """A drawn value as one would type it, with all digits."""
    return str(value) if drawn_from is None or drawn_from.is_whole else repr(float(value))


def _value(text: str, drawn_from: Range | None) -> Any:
    """What Optuna had drawn."""
    if drawn_from is None:
        return text
    try:
        return int(float(text)) if drawn_from.is_whole else float(text)
    except ValueError:
        return None


def _is_in(value: Any, key: str, words: SweepWords) -> bool:
    """Whether a search over these words could draw the value."""
    if key in words.values:
        return value in words.values[key]
    drawn_from = words.ranges[key]
    return value is not None and drawn_from.low <= value <= drawn_from.high


def _short(text: str) -> str:
    return f"{float(text):.{DIGITS}g}"
