"""Ray's Jobs API: jobs are submitted, listed and stopped there.

Whether it answers and takes our token is asked first, without Ray, so that each way in which it may
not is one line.
"""

import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from greatmeta_dist.errors import InputError, require
from greatmeta_dist.launch.access import CONNECT_S, HOW_TO_TOKEN, find_token

EXTRA = ("aiohttp", "requests")
"""Packages that Ray's client needs, and that only submitting needs."""
ANSWER_S = 30.0
"""How long the API may be silent before the connection counts as lost."""
READY_S, RETRY_S = 60.0, 1.0
NOT_READY = "No available agent"
"""What a head answers that has just started."""
FIRST_IN_ENVIRONMENT = "RAY_API_SERVER_ADDRESS"
"""Ray's client takes the address that it has here, whatever address it is given."""
FROM_ENVIRONMENT = (FIRST_IN_ENVIRONMENT, "RAY_ADDRESS")
OF_OURS = "greatmeta_command"
"""The key of a job's metadata that only our jobs have."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class ConnectionLost(RuntimeError):
    """The Jobs API does not answer any more: whoever asked may ask again."""


@dataclass(frozen=True)
class Job:
    """A job of ours, as the cluster knows it."""

    id: str
    command: str
    """Such as ``train``."""
    folder: str
    """What it writes: the run, the store, the recommendations."""
    words: list[str]
    """The command's options."""
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    exit_code: int | None
    """Of the command; None where it did not end by itself."""
    started_s: float
    """When it was submitted, in seconds since 1970."""

    @property
    def is_over(self) -> bool:
        return self.status in ENDED


def address_of_api(typed: str | None) -> str:
    """The API's address as typed, or as the environment has it; raises ``InputError``."""
    address = typed or next(
        (os.environ[k] for k in FROM_ENVIRONMENT if os.environ.get(k, "").startswith("http")), None
    )
    require(
        address is not None,
        "cluster.address is not set; name the cluster's Jobs API, as in "
        "cluster.address=http://127.0.0.1:8265",
    )
    assert address is not None
    require(
        address.startswith(("http://", "https://")),
        f"cluster.address={address} is no address of a Jobs API; expected http://HOST:PORT, where "
        "the cluster's dashboard is (port 8265 by default)",
    )
    return address.rstrip("/")


class JobsApi:
    """The jobs of one cluster."""

    def __init__(self, address: str):
        """Connect. Raises ``InputError`` where no Jobs API answers, or not to us."""
        headers = _accepted_headers(address)
        missing = [name for name in EXTRA if find_spec(name) is None]
        require(
            not missing,
            f"submitting needs packages that are not installed ({', '.join(missing)}); install "
            "them: pip install 'greatmeta_dist[cluster]'",
        )
        self.address = address
        with self._errors_in_one_line():
            self._client = _client(address, headers)

    def jobs(self) -> list[Job]:
        """All jobs of ours, the oldest first."""
        with self._errors_in_one_line():
            found = self._client.list_jobs()
        ours = [_job(details) for details in found if OF_OURS in (details.metadata or {})]
        return sorted(ours, key=lambda job: job.started_s)

    def job(self, job_id: str) -> Job:
        """One job of ours; raises ``InputError`` where there is none of that id."""
        try:
            with self._errors_in_one_line():
                details = self._client.get_job_info(job_id)
        except RuntimeError as error:
            if "status code 404" not in str(error):
                raise
            details = None
        is_ours = details is not None and OF_OURS in (details.metadata or {})
        if not is_ours:
            ids = [job.id for job in self.jobs()]
            there_is = f"there is {', '.join(ids[-5:])}" if ids else "there is none"
            require(False, f"{self.address} has no job {job_id} of greatmeta's; {there_is}")
        return _job(details)

    def submit(self, job: Job, entrypoint: str, package: Path, **options: Any) -> bool:
        """Upload a package and start a job; False where somebody just started one of that id."""
        metadata = {OF_OURS: job.command, "folder": job.folder, "words": json.dumps(job.words)}
        environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(options.pop("stop_wait_s"))}
        with self._errors_in_one_line(is_server_lost=False):
            try:
                self._start_when_ready(
                    entrypoint=entrypoint,
                    submission_id=job.id,
                    metadata=metadata,
                    runtime_env={"working_dir": str(package), "env_vars": environment},
                    **options,
                )
            except RuntimeError as error:
                if "already exists" in str(error):
                    return False
                raise
        return True

    def _start_when_ready(self, **job: Any) -> None:
        """Start a job; what starts jobs on a head comes up a while after its dashboard."""
        deadline = time.monotonic() + READY_S
        while True:
            try:
                self._client.submit_job(**job)
                return
            except RuntimeError as error:
                if NOT_READY not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(RETRY_S)

    def stop(self, job_id: str) -> None:
        """Ask a job to stop; it writes a checkpoint first."""
        with self._errors_in_one_line():
            self._client.stop_job(job_id)

    def log(self, job_id: str) -> str:
        """All that a job has printed."""
        with self._errors_in_one_line():
            return self._client.get_job_logs(job_id)

    def tail(self, job_id: str) -> AsyncIterator[str]:
        """What a job has printed, and prints, in pieces. It may end while the job goes on."""
        return self._client.tail_job_logs(job_id)

    @contextmanager
    def _errors_in_one_line(self, *, is_server_lost: bool = True) -> Iterator[None]:
        """Raises ``ConnectionLost``, or ``RuntimeError`` with what the cluster answered.

        A server that cannot answer now, or a tunnel without one behind it, may be there again in a
        moment: with ``is_server_lost`` that is a lost connection.
        """
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise RuntimeError(f"{self.address} does not take our token any more") from error
        except (ConnectionError, requests.exceptions.RequestException) as error:
            raise ConnectionLost(f"{self.address} does not answer any more") from error
        except RuntimeError as error:
            if is_server_lost and "status code 5" in str(error):
                raise ConnectionLost(f"{self.address} does not answer any more") from error
            lines = [line for line in str(error).splitlines() if line.strip()]
            # The last line of a trace that the cluster sends holds the cause.
            raise RuntimeError(f"{self.address}: {lines[0]} {lines[-1][:300]}") from error


def _client(address: str, headers: dict[str, str]) -> Any:
    """Ray's client, which says nothing itself and does not wait for ever."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Client(JobSubmissionClient):
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            # A connection that was cut somewhere on its way never answers.
            return super()._do_request(*arguments, **{"timeout": ANSWER_S, **options})

    before = os.environ.get(FIRST_IN_ENVIRONMENT)
    os.environ[FIRST_IN_ENVIRONMENT] = address
    try:
        return Client(address, headers=headers)
    finally:
        del os.environ[FIRST_IN_ENVIRONMENT]
        if before is not None:
            os.environ[FIRST_IN_ENVIRONMENT] = before


def _job(details: Any) -> Job:
    metadata = details.metadata
    return Job(
        id=details.submission_id,
        command=metadata[OF_OURS],
        folder=metadata.get("folder", ""),
        words=json.loads(metadata.get("words", "[]")),
        status=str(getattr(details.status, "value", details.status)),
        message=details.message or "",
        exit_code=details.driver_exit_code,
        started_s=(details.start_time or 0) / 1000,
    )


def _accepted_headers(address: str) -> dict[str, str]:
    """The headers that the API takes from us: none, or those with our token."""
    status = _status(address, {})
    if status not in (401, 403):
        return {}
    token = find_token()
    require(token is not None, f"{address} asks for a token; {HOW_TO_TOKEN}")
    assert token is not None
    headers = {"Authorization": f"Bearer {token.value}"}
    require(
        _status(address, headers) == 200,
        f"{address} refuses the token in {token.source}; take that cluster's own",
    )
    return headers


def _status(address: str, headers: dict[str, str]) -> int:
    """The status of an answer to a first question; raises ``InputError`` where Ray gives none."""
    try:
        request = urllib.request.Request(f"{address}/api/version", headers=headers)
        with urllib.request.urlopen(request, timeout=CONNECT_S) as answer:
            status, body = answer.status, answer.read(10_000)
        is_ray = "ray_version" in json.loads(body)
    except urllib.error.HTTPError as error:
        status, is_ray = error.code, error.code in (401, 403)
    except (HTTPException, json.JSONDecodeError, UnicodeDecodeError, ConnectionResetError):
        status, is_ray = 0, False
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            f"nothing answers at cluster.address={address} ({reason}); expected the dashboard of a "
            "Ray cluster: look at its host and port, and whether the tunnel to it is open"
        ) from error
    require(
        is_ray,
        f"cluster.address={address} answers, and is no Jobs API of Ray"
        f"{f' (status {status})' if status else ''}; its port is 8265 by default, and that of the "
        "dashboard",
    )
    return status
