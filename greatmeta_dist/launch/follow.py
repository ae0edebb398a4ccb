"""A job's output on this terminal, and its exit code, however often the connection is lost.

Ray's following may end silently while the job goes on, and starts from the beginning each time. So
what was shown is counted and left out, and only the job's status tells whether it is over.
"""

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress

import aiohttp

from greatmeta_dist.launch.job_package import CHECKED
from greatmeta_dist.launch.jobs_api import ConnectionLost, Job, JobsApi

POLL_S = 0.5
RETRY_S = 2.0
QUIET_S = 30.0
"""After so long without output the connection is tried: one that was cut is silent, too."""
NO_PACKAGE = re.compile(r"No module named '?greatmeta_dist\b")
NOT_FOUND = (126, 127)
"""How a shell exits where it does not find a program, or may not start it."""


class Follower:
    """Shows what a job prints, until it is over."""

    def __init__(
        self, api: JobsApi, job_id: str, *, write: Callable[[str], None], say: Callable[[str], None]
    ):
        """``write`` shows the job's own output, ``say`` a line of ours."""
        self._api, self._id, self._write, self._say = api, job_id, write, say
        self._log = _JobLog(job_id)
        self._held = ""

    def to_end(
        self, *, patience_s: float, is_detached: bool = False, stops_late: bool = False
    ) -> Job:
        """Follow to the job's end, or to its checks' end; returns the job as it is then.

        Raises ``RuntimeError`` where the cluster does not answer, or the job does not start, for
        ``patience_s``; with ``stops_late`` such a job is stopped.
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
                    self._show_rest()
                    return job
                if job.status == "PENDING":
                    self._wait_for_start(job, pending_since, patience_s, stops_late)
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

    def _wait_for_start(self, job: Job, since: float, patience_s: float, stops_late: bool) -> None:
        waited_s = time.monotonic() - since
        if waited_s > patience_s:
            if stops_late:
                self._api.stop(self._id)
            what_now = "and was stopped" if stops_late else "and waits on"
            raise RuntimeError(
                f"the job {self._id} did not start in {patience_s:g} s (cluster.wait_s), "
                f"{what_now}: {job.message}"
            )
        if waited_s > 10 and not self._log.is_waiting_said:
            self._log.is_waiting_said = True
            self._say(f"waiting for the job to start: {job.message}")

    def _follow(self, *, is_detached: bool) -> None:
        """Show what comes, until the stream ends or the connection is lost."""

        async def show_all() -> None:
            self._log.begin_again()
            pieces = self._api.tail(self._id)
            with suppress(StopAsyncIteration):
                while not (is_detached and self._log.is_checked):
                    # Not ``wait_for``, which in Python 3.11 can lose a Ctrl-C as a piece comes.
                    async with asyncio.timeout(QUIET_S):
                        piece = await anext(pieces)
                    self._show(piece)

        # Whether that is a lost connection, a job that is silent or its end, its status tells.
        with suppress(aiohttp.ClientError, RuntimeError, OSError):
            asyncio.run(show_all())

    def _show_rest(self) -> None:
        """Show what is left of the log of a job that is over; it may be lost with its node."""
        try:
            log = self._api.log(self._id)
        except RuntimeError:
            self._api.job(self._id)  # raises where it is the connection that is lost
            self._say("the end of the job's output cannot be read any more")
            return
        self._log.begin_again()
        self._show(log if log.endswith("\n") else f"{log}\n")

    def _show(self, piece: str) -> None:
        self._held += "".join(self._log.new_lines(piece))
        if self._log.is_checked:
            self._release()

    def _release(self) -> None:
        """Show what was held back: before the checks have passed, it may be one line in the end."""
        if self._held.strip():
            self._write(self._held)
        self._held = ""

    def conclude(self, job: Job, *, python: str) -> tuple[int, str | None]:
        """Show the rest of a job that is over.

        Returns the code to exit with, and a line that says why, if the job's last one does not.
        """
        if job.status == "FAILED" and NO_PACKAGE.search(self._held):
            return 1, (
                f"the cluster's {python} has no greatmeta_dist; install it on its nodes, name the "
                "Python that has it with submit.python, or send it along with submit.wheel"
            )
        if job.exit_code in NOT_FOUND:
            return 1, f"the cluster has no program {python}; name its Python with submit.python"
        self._release()
        return _exit_code(job, is_said=self._log.last_line.startswith("greatmeta: "))


class _JobLog:
    """How much of a job's log was shown."""

    def __init__(self, job_id: str):
        self._noise = re.compile(
            rf"Running entrypoint for job {re.escape(job_id)}: "
            r"|\d{4}-\d\d-\d\d \S+\s+INFO job_manager\.py:"
        )
        """What Ray itself writes into the log, at any place of it."""
        self._num_shown = 0
        self.is_checked = self.is_waiting_said = False
        self.last_line = ""
        self.begin_again()

    def begin_again(self) -> None:
        """The log is read from its beginning again."""
        self._num_read, self._partial = 0, ""

    def new_lines(self, piece: str) -> list[str]:
        """The whole lines that were not shown yet, when a next piece of the log has come."""
        *lines, self._partial = [*(self._partial + piece).splitlines(keepends=True), ""]
        if lines and not lines[-1].endswith("\n"):
            self._partial = lines.pop()
        lines = [line for line in lines if not self._noise.match(line)]
        new = lines[max(self._num_shown - self._num_read, 0) :]
        self._num_read += len(lines)
        self._num_shown = max(self._num_shown, self._num_read)
        self.is_checked = self.is_checked or any(line.startswith(CHECKED) for line in new)
        self.last_line = next((x for x in reversed(new) if x.strip()), self.last_line)
        return new


def _exit_code(job: Job, *, is_said: bool) -> tuple[int, str | None]:
    """The code to exit with for a job that is over, and why."""
    if job.status == "SUCCEEDED":
        return 0, f"job {job.id} is done"
    if job.status == "STOPPED":
        return 1, f"job {job.id} was stopped; the same command goes on with it"
    if job.exit_code is None:
        first = next((line for line in job.message.splitlines() if line.strip()), "no reason given")
        return 1, f"job {job.id} failed before it ended by itself: {first[:500]}"
    if job.exit_code < 0 or job.exit_code > 128:
        number = -job.exit_code if job.exit_code < 0 else job.exit_code - 128
        return 1, f"job {job.id} was ended by signal {number}; memory? The same command goes on"
    return job.exit_code, None if is_said else f"job {job.id} failed with code {job.exit_code}"
