"""``greatmeta jobs``: the jobs of a cluster, listed, followed or stopped."""

import sys
import time

from greatmeta_dist.config import Config
from greatmeta_dist.display import Display
from greatmeta_dist.launch.jobs_api import Job, JobsApi, address_of_api


def jobs(config: Config, action: str, job_id: str | None) -> int:
    """List, follow or stop jobs; returns the exit code, of a job that is followed its own."""
    display, api = Display(), JobsApi(address_of_api(config.cluster.address))
    if action == "list" or job_id is None:
        _list(api, display)
        return 0
    job = api.job(job_id)
    if action == "stop":
        _stop(api, job, display)
        return 0
    return follow(api, job.id, config, display)


def follow(
    api: JobsApi, job_id: str, options: Config, display: Display, *, stops_late: bool = False
) -> int:
    """Show what a job prints until it is over, or has passed its checks; returns its exit code.

    Ctrl-C ends the following, not the job. With ``stops_late`` a job that does not start in
    ``cluster.wait_s`` is stopped.
    """
    # aiohttp comes with an extra, which connecting has asked for.
    from greatmeta_dist.launch.follow import Follower

    follower = Follower(api, job_id, write=_write, say=display.say)
    again = f"greatmeta jobs follow {job_id} cluster.address={api.address}"
    try:
        job = follower.to_end(
            patience_s=options.cluster.wait_s,
            is_detached=options.submit.detach,
            stops_late=stops_late,
        )
    except KeyboardInterrupt:
        stop = again.replace(" follow ", " stop ")
        display.say(f"job {job_id} goes on; follow it again: {again}, or stop it: {stop}")
        return 1
    if not job.is_over:
        display.say(f"job {job_id} goes on; follow it: {again}")
        return 0
    code, line = follower.conclude(job, python=options.submit.python)
    if line is None:
        return code
    if code == 0:
        display.say(line)
    else:
        print(f"greatmeta: {line}", file=sys.stderr)
    return code


def _write(text: str) -> None:
    """Show a job's output as it is."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _list(api: JobsApi, display: Display) -> None:
    found = api.jobs()
    if not found:
        display.say(f"{api.address} has no jobs of greatmeta's")
    width = max((len(job.id) for job in found), default=0)
    for job in found:
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started_s))
        code = "" if job.exit_code in (None, 0) else f" (exit code {job.exit_code})"
        display.say(f"{job.id:<{width}}  {started}  {job.status}{code}  {job.folder}")


def _stop(api: JobsApi, job: Job, display: Display) -> None:
    if job.is_over:
        display.say(f"job {job.id} is over already: {job.status}")
        return
    api.stop(job.id)
    display.say(f"job {job.id} is asked to stop; a training writes a checkpoint first")
