"""A job's output on this terminal, and its exit code, however often the connection is lost.

Ray's following may end silently while the job goes on, and starts from the beginning each time. So
what was shown is counted and left out, and only the job's status tells whether it is over.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import aiohttp

from greatmeta_dist.launch.job_package import CHECKED
from greatmeta_dist.launch.jobs_api import ConnectionLost, Job, JobsApi

POLL_S = 0.5
RETRY_S = 2.0
NO_PACKAGE = "No module named greatmeta_dist"
NO_PYTHON = ("command not found", "not found", "No such file or directory")
"""What a shell says of a program that it does not find."""
SHELL_NOT_FOUND = 127


class Follower:
    """Shows what a job prints, until it is over."""

    def __init__(
        self, api: JobsApi, job_id: str, *, write: Callable[[str], None], say: Callable[[str], None]
    ):
        """``write`` shows the job's own output, ``say`` a line of ours."""
        self._api, self._id, self._write, self._say = api, job_id, write, say
        self._log = _JobLog(job_id)

    def to_end(self, *, patience_s: float, is_detached: bool = False) -> Job:
        """Follow to the job's end, or to its checks' end; returns the job as it is then.

        Raises ``RuntimeError`` where the cluster does not answer, or the job does not start, for
        ``patience_s``.
        """
        lost_since: float | None = None
        pending_since = time.monotonic()
        while True:
            try:
                job = self._api.job(self._id)
                if lost_since is not None:
                    self._say("connected again")
                lost_since = None
                if job.is_over:
                    self._show_all()
                    return job
                if job.status == "PENDING":
                    self._wait_for_start(job, pending_since, patience_s)
                else:
                    self._follow(is_detached=is_detached)
                    if is_detached and self._log.is_checked:
                        return job
            except ConnectionLost as error:
                lost_since = self._retry(error, lost_since, patience_s)
            time.sleep(POLL_S)

    def _retry(self, error: ConnectionLost, since: float | None, patience_s: float) -> float:
        """Wait a moment before the next try; since when the connection is lost."""
        now = time.monotonic()
        if since is None:
            self._say(f"{error}; the job goes on, trying again")
        elif now - since > patience_s:
            raise RuntimeError(
                f"{error}, for {patience_s:g} s (cluster.wait_s); the job {self._id} may go on: "
                "the same command follows it again"
            ) from error
        time.sleep(RETRY_S)
        return now if since is None else since

    def _wait_for_start(self, job: Job, since: float, patience_s: float) -> None:
        waited_s = time.monotonic() - since
        if waited_s > patience_s:
            self._api.stop(self._id)
            raise RuntimeError(
                f"the job {self._id} did not start in {patience_s:g} s (cluster.wait_s), and was "
                f"stopped: {job.message}"
            )
        if waited_s > 10 and not self._log.is_waiting_said:
            self._log.is_waiting_said = True
            self._say(f"waiting for the job to start: {job.message}")

    def _follow(self, *, is_detached: bool) -> None:
        """Show what comes, until the stream ends or the connection is lost."""

        async def show_all() -> None:
            self._log.begin_again()
            async for piece in self._api.tail(self._id):
                self._show(piece)
                if is_detached and self._log.is_checked:
                    return

        # Whether that is a lost connection or the job's end, its status tells.
        with suppress(aiohttp.ClientError, RuntimeError, OSError):
            asyncio.run(show_all())

    def _show_all(self) -> None:
        self._log.begin_again()
        self._show(self._api.log(self._id))

    def _show(self, piece: str) -> None:
        text = self._log.new_text(piece)
        if text:
            self._write(text)


class _JobLog:
    """How much of a job's log was shown, and what it says of the job's start."""

    def __init__(self, job_id: str):
        self._marker = f"Running entrypoint for job {job_id}: "
        self._num_shown = 0
        self.is_checked = self.is_waiting_said = False
        self.begin_again()

    def begin_again(self) -> None:
        """The log is read from its beginning again."""
        self._before, self._num_read, self._last_line = "", 0, ""
        self._is_begun = False

    def new_text(self, piece: str) -> str:
        """What was not shown yet of the log's next piece.

        What Ray writes before the job's own output is left out.
        """
        if not self._is_begun:
            self._before += piece
            _, marker, after = self._before.partition(self._marker)
            _, end, piece = after.partition("\n")
            if not (marker and end):
                return ""
            self._is_begun = True
        num_known = max(self._num_shown - self._num_read, 0)
        self._num_read += len(piece)
        self._num_shown = max(self._num_shown, self._num_read)
        self._last_line = (self._last_line + piece)[-1000:]
        self.is_checked = self.is_checked or CHECKED in self._last_line
        return piece[num_known:]


def exit_code(api: JobsApi, job: Job, *, python: str) -> tuple[int, str]:
    """The code to exit with for a job that is over, and a line that says why."""
    if job.status == "SUCCEEDED":
        return 0, f"job {job.id} is done"
    if job.status == "STOPPED":
        return 1, f"job {job.id} was stopped; the same command goes on with it"
    if job.exit_code is None:
        first = next((line for line in job.message.splitlines() if line.strip()), "no reason given")
        return 1, f"job {job.id} failed before it ended by itself: {first[:500]}"
    log = api.log(job.id)
    if NO_PACKAGE in log:
        return job.exit_code, (
            f"the cluster's {python} has no greatmeta_dist; install it on its nodes, name the "
            "Python that has it with submit.python, or send it along with submit.wheel"
        )
    if job.exit_code in (126, SHELL_NOT_FOUND):
        return 1, f"the cluster has no program {python}; name its Python with submit.python"
    if job.exit_code < 0 or job.exit_code > 128:
        number = -job.exit_code if job.exit_code < 0 else job.exit_code - 128
        return 1, f"job {job.id} was ended by signal {number}; memory? The same command goes on"
    return job.exit_code, f"job {job.id} failed with exit code {job.exit_code}"
