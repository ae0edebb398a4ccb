"""A command's words → the jobs of a sweep, all checked before the first one starts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from greatmeta_dist.config import ClusterConfig, Config, SweepConfig
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.options.checks import verbatim
from greatmeta_dist.options.compose import compose_config, compose_job, with_changes
from greatmeta_dist.options.names import VERBATIM
from greatmeta_dist.options.sweep_words import SweepWords, job_name
from greatmeta_dist.storage.local_copy import absolute
from greatmeta_dist.sweep.folder import Job, SweepFolder
from greatmeta_dist.training.run_config import saved_config
from greatmeta_dist.training.run_folder import checked_config

OWN = "sweep."
"""What the sweep's own options begin with; trainings have none of them."""


@dataclass(frozen=True)
class Plan:
    """What a sweep is to do."""

    folder: SweepFolder
    """With the options as they will be remembered, and with all jobs that are known now."""
    words: SweepWords
    options: SweepConfig
    cluster: ClusterConfig
    """How workers are started: the first job's."""
    jobs: list[Job]
    """The jobs of this command, finished ones included; of a search those that it began before."""

    @property
    def is_search(self) -> bool:
        return self.options.budget is not None

    def config_of(self, job: Job) -> Config:
        """The config of a job's training, which may have begun before."""
        words = self.words.words(job.values)
        return config_of_run(self.folder.run(job), compose_job(words), words)


def config_of_run(run: Path, config: Config, words: list[str]) -> Config:
    """The config to train a run with: its own one, but for what ``words`` name."""
    saved = saved_config(run)
    return config if saved is None else with_changes(saved, config, words)


def plan_sweep(folder: SweepFolder, words: list[str]) -> Plan:
    """Plan what ``words`` ask for, besides what the folder remembers; ``folder`` is not changed.

    Raises ``InputError`` in one line where a single job of it could not start.
    """
    typed = dict(_whole(word) for word in words if not word.startswith("run="))
    remembered = folder.options | typed
    own = [f"{key}={text}" for key, text in remembered.items() if key.startswith(OWN)]
    options = compose_config(own).sweep
    is_search = options.budget is not None
    texts = [f"{key}={text}" for key, text in remembered.items() if not key.startswith(OWN)]
    parsed = _named_alike(SweepWords.parse(texts, is_search=is_search), folder)
    _require_swept(parsed, is_search)
    target = SweepFolder(folder.path, remembered | _united(folder, typed), dict(folder.jobs))
    if is_search:
        config = _check_search(target, parsed)
        jobs = sorted(_trials(target), key=lambda job: job.trial or 0)
        return Plan(target, parsed, options, config.cluster, jobs)
    return _plan_combinations(target, parsed, options)


def _plan_combinations(folder: SweepFolder, parsed: SweepWords, options: SweepConfig) -> Plan:
    all_values = list(parsed.combinations())
    all_words = [parsed.words(values) for values in all_values]
    configs = [compose_job(words) for words in all_words]
    jobs: dict[str, Job] = {}
    for values, words, config in zip(all_values, all_words, configs, strict=True):
        job = folder.add(values, job_name(values), config, None)
        _check(folder.run(job), config, words, job.name)
        jobs[job.name] = job
    return Plan(folder, parsed, options, configs[0].cluster, list(jobs.values()))


def _check_search(folder: SweepFolder, parsed: SweepWords) -> Config:
    """Check the ends of all ranges, and every listed value, each beside the others' first ones."""
    ends = {
        key: [_text(r.low, r.is_whole), _text(r.high, r.is_whole)]
        for key, r in parsed.ranges.items()
    }
    values = parsed.values | ends
    first = {key: texts[0] for key, texts in values.items()}
    all_words = [
        parsed.words(first | {key: text}) for key, texts in values.items() for text in texts
    ]
    configs = [compose_job(words) for words in all_words]
    for words, config in zip(all_words, configs, strict=True):
        _check(folder.path / "trial", config, words, " ".join(words))
    for job in _trials(folder):
        words = parsed.words(job.values)
        _check(folder.run(job), compose_job(words), words, job.name)
    return configs[0]


def _check(run: Path, config: Config, words: list[str], name: str) -> None:
    """Raise ``InputError``, with the job's name, where its training cannot start."""
    try:
        checked_config(config_of_run(run, config, words), run)
    except InputError as error:
        message = str(error)
        raise InputError(message if name in message else f"{name}: {message}") from error


def _trials(folder: SweepFolder) -> Iterator[Job]:
    """Jobs that a search has begun."""
    return (job for job in folder.jobs.values() if job.trial is not None)


def _named_alike(parsed: SweepWords, folder: SweepFolder) -> SweepWords:
    """The words with an option of one value among the swept ones where earlier jobs swept it."""
    before = {key for job in folder.jobs.values() for key in job.values}
    single = {key: text for key, text in parsed.single.items() if key not in before}
    again = [f"{k}=choice({t})" for k, t in parsed.single.items() if k in before]
    values = SweepWords.parse(again, is_search=False).values
    return replace(parsed, single=single, values=parsed.values | values)


def _require_swept(parsed: SweepWords, is_search: bool) -> None:
    require(
        is_search or not parsed.ranges,
        f"{next(iter(parsed.ranges), '')} is a range; set sweep.budget=N to try N values that "
        "Optuna draws from it, or list values with commas",
    )
    example = "a range, as train.learning_rate=tag(log,interval(1e-4,1e-2))"
    example = example if is_search else "several values, as train.seed=1,2"
    require(bool(parsed.swept), f"-m has nothing to sweep over; give an option {example}")


def _united(folder: SweepFolder, typed: dict[str, str]) -> dict[str, str]:
    """What is remembered of lists of values: those typed now, and those typed before."""
    united = {}
    for key, text in typed.items():
        before = folder.options.get(key)
        if before is None or key.startswith(OWN):
            continue
        old, new = (SweepWords.parse([f"{key}={t}"], is_search=False) for t in (before, text))
        if (old.values or new.values) and not (old.ranges or new.ranges):
            lists = [w.values.get(key) or [w.single[key]] for w in (old, new)]
            united[key] = ",".join(dict.fromkeys([*lists[0], *lists[1]]))
    return united


def _whole(word: str) -> tuple[str, str]:
    """An option and its text; a path is made whole, since a later command may start elsewhere."""
    key, text = word.split("=", 1)
    if key not in VERBATIM:
        return key, text
    path = verbatim(key, text)
    return key, "null" if path is None else absolute(path)


def _text(number: float, is_whole: bool) -> str:
    return str(int(number)) if is_whole else repr(number)
