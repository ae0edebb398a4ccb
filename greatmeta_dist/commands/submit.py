"""``greatmeta submit``: a command as a job of a Ray cluster, followed to its end."""

import hashlib
import re
import shlex
import sys
import tempfile
from pathlib import Path

from omegaconf import OmegaConf

import greatmeta_dist
from greatmeta_dist.config import Config
from greatmeta_dist.display import Display
from greatmeta_dist.errors import require
from greatmeta_dist.launch.job_package import JobSpec, write_package
from greatmeta_dist.launch.jobs_api import Job, JobsApi, address_of_api
from greatmeta_dist.options.checks import check_folders, check_words, require_whole_paths
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.options.hints import nearest
from greatmeta_dist.options.names import COMMANDS

WRITES = {
    "prepare": "store",
    "train": "run",
    "evaluate": "run",
    "recommend": "out",
    "export": "out",
}
"""The commands that may be submitted, and what each of them writes: there is one job at a time for
it."""
DETACH = "--detach"
ENTRYPOINT = "exec {python} -u -m greatmeta_dist.submitted"
"""``exec``, so that signals and exit codes are the command's own and not a shell's."""


def submit(words: list[str]) -> int:
    """Submit a command, or find its job, and follow it; returns the job's exit code.

    Raises ``InputError`` where the command, the cluster or the options do not allow it.
    """
    options, command, inner = checked_words(words)
    config = compose_config(inner)
    spec = JobSpec(
        version=greatmeta_dist.__version__,
        command=command,
        words=inner,
        config=OmegaConf.to_yaml(OmegaConf.structured(config)),
        may_wait=any(word.startswith("cluster.wait_s=") for word in inner),
    )
    display = Display()
    api = JobsApi(address_of_api(options.cluster.address))
    job = _job_for(api, spec, getattr(config, WRITES[command]))
    if job.is_over:
        job = _start(api, job, spec, options, display)
    else:
        display.say(f"job {job.id} is at work on that already; following it")
    from greatmeta_dist.commands.jobs import follow

    return follow(api, job.id, options, display)


def checked_words(words: list[str]) -> tuple[Config, str, list[str]]:
    """The options of ``submit``, the command to submit, and that command's words, all checked."""
    require(
        "--" in words,
        "submit takes a command after --, as in: greatmeta submit cluster.address=URL -- train …",
    )
    place = words.index("--")
    own = ["submit.detach=true" if word == DETACH else word for word in words[:place]]
    check_words("submit", own)
    require(place + 1 < len(words), f"no command stands after --; there is {', '.join(WRITES)}")
    command, *inner = words[place + 1 :]
    require(command in WRITES, f"'{command}' cannot be submitted; {nearest(command, WRITES)}")
    require(
        not {"-m", "--multirun"} & set(inner),
        "a sweep cannot be submitted; submit each of its trainings with a run of its own",
    )
    check_words(command, inner)
    require_whole_paths(inner)
    check_folders(command, inner, is_elsewhere=True)
    return compose_config(own), command, _on_the_cluster(command, inner)


def _on_the_cluster(command: str, words: list[str]) -> list[str]:
    """The words with ``cluster=ray``, unless they say where workers run."""
    keys = {word.partition("=")[0] for word in words}
    require(
        "cluster.address" not in keys,
        "cluster.address belongs before --; the job joins the cluster that it runs on",
    )
    is_said = (
        bool({"cluster", "cluster.kind"} & keys) or "cluster" not in COMMANDS[command].sections
    )
    return words if is_said else ["cluster=ray", *words]


def _job_for(api: JobsApi, spec: JobSpec, folder: str) -> Job:
    """The job that is at work on a folder; else one of the next number, which is not started.

    Raises ``InputError`` where the job at work does something else there.
    """
    folder = folder.rstrip("/")
    same = [job for job in api.jobs() if (job.command, job.folder) == (spec.command, folder)]
    at_work = [job for job in same if not job.is_over]
    for job in at_work:
        require(
            sorted(job.words) == sorted(spec.words),
            f"job {job.id} is at work on {folder} with other options "
            f"({shlex.join(job.words)}); stop it first: greatmeta jobs stop {job.id} "
            f"cluster.address={api.address}",
        )
    return at_work[-1] if at_work else _next_job(spec, folder, same)


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
    display.say(f"job {job.id} is submitted" if is_new else f"job {job.id} was just submitted")
    sys.stdout.flush()
    return job
