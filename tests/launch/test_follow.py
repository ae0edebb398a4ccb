"""Following a job: every line once, whatever the connection does, and the job's own exit code."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest

from greatmeta_dist.launch import follow
from greatmeta_dist.launch.follow import Follower
from greatmeta_dist.launch.job_package import CHECKED
from greatmeta_dist.launch.jobs_api import ConnectionLost, Job

JOB = Job("train-a-0-1", "train", "/a", [], "RUNNING", "", None, 0.0)
SILENCE = "silence"
NOISE = "2026-01-02 03:04:05,678\tINFO job_manager.py:581 -- Runtime env is setting up.\n"
LOG = (
    f"{NOISE}Running entrypoint for job {JOB.id}: exec python\n{CHECKED}: all\nstep 1\nstep 2\nend"
)


@dataclass
class Api:
    """A cluster that answers with one thing after the other."""

    states: list[Job | Exception]
    tails: list[list[str] | Exception] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    def job(self, job_id: str) -> Job:
        state = self.states.pop(0)
        if isinstance(state, Exception):
            raise state
        return state

    def log(self, job_id: str) -> str:
        return LOG

    async def tail(self, job_id: str) -> AsyncIterator[str]:
        pieces = self.tails.pop(0)
        for piece in [pieces] if isinstance(pieces, Exception) else pieces:
            if isinstance(piece, Exception):
                raise piece
            if piece == SILENCE:
                await asyncio.sleep(600)
            yield piece

    def stop(self, job_id: str) -> None:
        self.stopped.append(job_id)


@pytest.fixture(autouse=True)
def _no_sleep(monkeypatch):
    monkeypatch.setattr(follow, "POLL_S", 0.0)
    monkeypatch.setattr(follow, "RETRY_S", 0.0)


def followed(api: Api, *, python: str = "python", patience_s: float = 60.0, detached: bool = False):
    """What was shown of the job, what was said, its exit code and the line about it."""
    shown: list[str] = []
    said: list[str] = []
    follower = Follower(api, JOB.id, write=shown.append, say=said.append)  # type: ignore[arg-type]
    job = follower.to_end(patience_s=patience_s, is_detached=detached, stops_late=True)
    end = follower.conclude(job, python=python) if job.is_over else (0, None)
    return "".join(shown), said, *end


def test_every_line_is_shown_once_when_following_ends_early_and_the_connection_is_lost():
    half = LOG.index("step 2") + 3
    api = Api(
        states=[JOB, JOB, ConnectionLost("gone"), ConnectionLost("gone"), JOB,
                replace(JOB, status="SUCCEEDED", exit_code=0)],
        tails=[[LOG[:20], LOG[20:half]], RuntimeError("closed"), [LOG[: half + 9]]],
    )  # fmt: skip
    shown, said, code, line = followed(api)
    assert shown == f"{CHECKED}: all\nstep 1\nstep 2\nend\n"
    assert said == ["gone; the job goes on, trying again", "connected again"]
    assert (code, line) == (0, f"job {JOB.id} is done")


def test_a_connection_that_was_cut_without_a_word_is_tried_anew(monkeypatch):
    monkeypatch.setattr(follow, "QUIET_S", 0.01)
    api = Api(
        states=[JOB, JOB, replace(JOB, status="SUCCEEDED", exit_code=0)],
        tails=[[LOG[:-10], SILENCE], [LOG[:-5]]],
    )
    shown, _, code, _ = followed(api)
    assert shown == f"{CHECKED}: all\nstep 1\nstep 2\nend\n"
    assert code == 0


def test_output_that_is_lost_with_its_node_does_not_hide_how_the_job_ended(monkeypatch):
    def lost(*_):
        raise ConnectionLost("no such node")

    monkeypatch.setattr(Api, "log", lost)
    failed = replace(JOB, status="FAILED", message="the node died")
    _, said, code, line = followed(Api(states=[failed, failed]))
    assert said == ["the end of the job's output cannot be read any more"]
    assert code == 1
    assert line is not None
    assert "the node died" in line


def test_a_cluster_that_stays_away_ends_the_following():
    api = Api(states=[ConnectionLost("gone") for _ in range(1000)])
    with pytest.raises(RuntimeError, match=r"gone, for 0 s .* the same command follows it again"):
        followed(api, patience_s=0.0)


def test_a_detached_job_is_followed_until_it_has_passed_its_checks():
    api = Api(states=[JOB, JOB], tails=[[LOG[:-10]]])
    shown, _, code, _ = followed(api, detached=True)
    assert shown.startswith(CHECKED)
    assert code == 0


def test_a_job_that_does_not_start_is_stopped_after_a_while():
    pending = replace(JOB, status="PENDING", message="waiting for resources")
    api = Api(states=[pending, pending])
    with pytest.raises(RuntimeError, match=r"did not start in 0 s .* waiting for resources"):
        followed(api, patience_s=0.0)
    assert api.stopped == [JOB.id]


@pytest.mark.parametrize(
    "status, job_code, code, reason",
    [
        ("SUCCEEDED", 0, 0, "is done"),
        ("FAILED", 2, 2, "failed with code 2"),
        ("FAILED", 1, 1, "failed with code 1"),
        ("FAILED", -9, 1, "ended by signal 9"),
        ("FAILED", 137, 1, "ended by signal 9"),
        ("FAILED", 127, 1, "has no program python"),
        ("FAILED", None, 1, "failed before it ended by itself: the node died"),
        ("STOPPED", None, 1, "was stopped"),
    ],
)
def test_the_exit_code_is_the_job_s_own(status, job_code, code, reason):
    job = replace(JOB, status=status, exit_code=job_code, message="the node died\n…")
    _, _, found, line = followed(Api(states=[job]))
    assert found == code
    assert reason in line


def test_an_error_that_the_job_has_said_in_one_line_is_not_said_again(monkeypatch):
    monkeypatch.setattr(Api, "log", lambda *_: f"{LOG}\ngreatmeta: no such store\n")
    job = replace(JOB, status="FAILED", exit_code=2)
    shown, _, code, line = followed(Api(states=[job]))
    assert shown.endswith("greatmeta: no such store\n")
    assert (code, line) == (2, None)
