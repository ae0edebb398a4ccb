"""A sweep's folder: ``sweep.json``, ``summary.json``, ``summary.csv``, and a folder for each run.

``sweep.json`` keeps the options that were typed, with all values so far, and the jobs. So a later
command needs to name only what is new.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from greatmeta_dist.config import Config
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.files import locked, write_json_atomically
from greatmeta_dist.storage.local_copy import absolute
from greatmeta_dist.training.run_config import CONFIG
from greatmeta_dist.training.run_folder import SWEEP

LOCK = ".lock"
NOT_OF_A_RUN = ("run", "data", "sweep", "serve", "submit", "evaluate")
"""Parts of the config that do not make two trainings different."""


@dataclass(frozen=True)
class Job:
    """One training of a sweep."""

    name: str
    """Of its folder."""
    values: dict[str, str]
    """Its values of the swept options."""
    key: str
    """A hash of its config: two jobs with the same one are the same training."""
    trial: int | None = None
    """Its number in a search, from 0 on; None in a sweep over all combinations."""


@dataclass
class SweepFolder:
    """What is known of a sweep."""

    path: Path
    options: dict[str, str] = field(default_factory=dict)
    """The words typed so far: values by option."""
    jobs: dict[str, Job] = field(default_factory=dict)
    """By name."""

    @classmethod
    def read(cls, path: Path) -> "SweepFolder":
        """What a folder holds; raises ``InputError`` where it may be no sweep's."""
        require(
            not (path / CONFIG).exists(),
            f"run={path} is a training, not a sweep; choose another folder, or leave out -m",
        )
        if not (path / SWEEP).exists():
            names = [p.name for p in path.iterdir()] if path.is_dir() else []
            is_free = not path.exists() or (path.is_dir() and set(names) <= {LOCK})
            require(is_free, f"run={path} exists and is no sweep; choose an empty or new folder")
            return cls(path)
        try:
            saved = json.loads((path / SWEEP).read_text())
            jobs = {name: Job(name, **job) for name, job in saved["jobs"].items()}
            return cls(path, dict(saved["options"]), jobs)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{path / SWEEP} cannot be read ({error}); choose another run=DIR"
            ) from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder while in the block: two sweeps may not start the same training.

        Raises ``InputError`` where another one holds it, or has changed it since it was read.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path / LOCK, f"another sweep runs in {self.path}"):
            require(
                SweepFolder.read(self.path) == self,
                f"another sweep has just run in {self.path}; run the same command again",
            )
            yield

    def write(self) -> None:
        """Write ``sweep.json``."""
        jobs = {name: _without_name(job) for name, job in self.jobs.items()}
        write_json_atomically(self.path / SWEEP, {"options": self.options, "jobs": jobs})

    def add(self, values: Mapping[str, str], name: str, config: Config, trial: int | None) -> Job:
        """The job of these values: one that is there already, or else a new one.

        It is there already under this name, or as the same training under another one.
        """
        key = training_key(config)
        same = [job for job in self.jobs.values() if job.key == key and trial is None]
        job = self.jobs.get(name) or next(iter(same), None)
        if job is None or job.name == name:
            job = Job(name, dict(values), key, trial if job is None else job.trial)
        self.jobs[job.name] = job
        return job

    def run(self, job: Job) -> Path:
        """The folder of a job's training."""
        return self.path / job.name


def is_sweep(path: str | Path) -> bool:
    """Whether a folder is a sweep's. None on an object store is."""
    return "://" not in str(path) and Path(path, SWEEP).exists()


def training_key(config: Config) -> str:
    """A hash of all that makes a training what it is."""
    settings = {k: v for k, v in asdict(config).items() if k not in NOT_OF_A_RUN}
    settings["store"] = absolute(config.store or "")
    return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _without_name(job: Job) -> dict[str, Any]:
    return {name: value for name, value in asdict(job).items() if name != "name"}
