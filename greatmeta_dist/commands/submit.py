"""``greatmeta submit``: a command as a job of a Ray cluster, followed to its end."""

import hashlib
import os
import re
import shlex
import tempfile
from pathlib import Path

from omegaconf import OmegaConf

import greatmeta_dist
from greatmeta_dist.config import Config
from greatmeta_dist.display import Display
from greatmeta_dist.errors import require
from greatmeta_dist.launch.job_package import JobSpec, write_package
from greatmeta_dist.launch.jobs_api import Job, JobsApi, address_of_api
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.options.job_words import WRITES

ENTRYPOINT = "exec {python} -u -m greatmeta_dist.submitted"
"""``exec``, so that signals and exit codes are the command's own and not a shell's."""


def submit(options: Config, command: str, words: list[str]) -> int:
    """Submit a command, or find its job, and follow it; returns the job's exit code.

    ``words`` are the command's options. There is one job at a time for what a command writes.
    Raises ``InputError`` where the cluster or the options do not allow it.
    """
    config = compose_config(words)
    spec = JobSpec(
        version=greatmeta_dist.__version__,
        command=command,
        words=words,
        config=OmegaConf.to_yaml(OmegaConf.structured(config)),
        may_wait=any(word.startswith("cluster.wait_s=") for word in words),
    )
    display = Display()
    api = JobsApi(address_of_api(options.cluster.address))
    job = _job_for(api, spec, getattr(config, WRITES[command]))
    if job.is_over:
        job = _start(api, job, spec, options, display)
    else:
        display.say(f"job {job.id} is at work on that already; following it")
    from greatmeta_dist.commands.jobs import follow

    return follow(api, job.id, options, display, stops_late=True)


def _job_for(api: JobsApi, spec: JobSpec, folder: str) -> Job:
    """The job that is at work on a folder; else one of the next number, which is not started.

    Raises ``InputError`` where the job at work does something else there.
    """
    folder = folder.rstrip("/") if "://" in folder else os.path.normpath(folder)
    same = [job for job in api.jobs() if (job.command, job.folder) == (spec.command, folder)]
    at_work = [job for job in same if not job.is_over]
    for job in at_work:
        _require_same(api, job, spec)
    return at_work[-1] if at_work else _next_job(spec, folder, same)


def _require_same(api: JobsApi, job: Job, spec: JobSpec) -> None:
    require(
        sorted(job.words) == sorted(spec.words),
        f"job {job.id} is at work on {job.folder} with other options ({shlex.join(job.words)}); "
        f"stop it first: greatmeta jobs stop {job.id} cluster.address={api.address}",
    )


def _next_job(spec: JobSpec, folder: str, earlier: list[Job]) -> Job:
    """A job's id says what it does, and how often it was started: two starts at once are one."""
    name = re.sub(r"[^\w-]+", "-", Path(folder).name)[:40]
    place = hashlib.sha256(folder.encode()).hexdigest()[:8]
    numbers = [int(job.id.rpartition("-")[2]) for job in earlier]
    number = max(numbers, default=0) + 1
    return Job(
        id=f"{spec.command}-{name}-{place}-{number}",
        command=spec.command,
        folder=folder,
        words=spec.words,
        status="STOPPED",
        message="",
        exit_code=None,
        started_s=0.0,
    )


def _start(api: JobsApi, job: Job, spec: JobSpec, options: Config, display: Display) -> Job:
    """Upload what the job needs, and start it."""
    wheel = options.submit.wheel
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "greatmeta_job.zip"
        num_bytes = write_package(package, spec, Path(wheel) if wheel else None)
        what = "the config and the package" if wheel else "the config"
        display.say(f"uploading {what}: {num_bytes / 1024:.0f} KiB")
        # What computes in the job's own process needs a processor; the others' workers do.
        num_cpus = 1 if spec.command in ("evaluate", "export") else None
        is_new = api.submit(
            job,
            ENTRYPOINT.format(python=shlex.quote(options.submit.python)),
            package,
            stop_wait_s=options.submit.stop_wait_s,
            entrypoint_num_cpus=num_cpus,
        )
    if not is_new:  # by somebody else, in the same moment
        job = api.job(job.id)
        _require_same(api, job, spec)
    display.say(f"job {job.id} is submitted" if is_new else f"job {job.id} was just submitted")
    return job
