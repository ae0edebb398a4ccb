"""What the Jobs API answers while a head starts, or when it does not want to."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from greatmeta_dist.launch import jobs_api
from greatmeta_dist.launch.jobs_api import ConnectionLost, Job, JobsApi

JOB = Job("train-a-0-1", "train", "/a", [], "STOPPED", "", None, 0.0)


def api_that_answers(*answers: str) -> JobsApi:
    """An API whose server gives such errors, one for each request, and then starts the job."""
    api, left = object.__new__(JobsApi), list(answers)
    api.address = "http://head:8265"

    class Client:
        def submit_job(self, **job):
            if left:
                raise RuntimeError(f"Request failed with status code 500: {left.pop(0)}")

    api._client = Client()
    return api


def submit(api: JobsApi) -> bool:
    return api.submit(JOB, "exec python", Path("package.zip"), stop_wait_s=300)


def test_a_head_that_has_just_started_is_asked_again(monkeypatch):
    monkeypatch.setattr(jobs_api, "RETRY_S", 0.0)
    busy = "No available agent to submit job, please try again later."
    assert submit(api_that_answers(busy, busy))
    monkeypatch.setattr(jobs_api, "READY_S", -1.0)
    with pytest.raises(RuntimeError, match="No available agent"):
        submit(api_that_answers(busy))


def test_a_job_of_the_same_name_is_no_error_and_others_are_one_line():
    assert not submit(api_that_answers("Job train-a-0-1 already exists"))
    with pytest.raises(RuntimeError, match=r"^http://head:8265: .*no space left$"):
        submit(api_that_answers("Traceback:\n  File x\nOSError: no space left"))


def test_a_server_that_fails_to_answer_a_question_is_a_lost_connection():
    api = api_that_answers()
    api._client.list_jobs = lambda: (_ for _ in ()).throw(RuntimeError("status code 502: tunnel"))
    with pytest.raises(ConnectionLost):
        api.jobs()


@pytest.fixture
def head() -> Iterator[str]:
    """The address of a server that answers as a cluster without jobs does."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            version = {
                "version": "4",
                "ray_version": "2.60.0",
                "ray_commit": "",
                "session_name": "",
            }
            body = json.dumps(version if self.path == "/api/version" else []).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("name", jobs_api.FROM_ENVIRONMENT)
def test_a_typed_address_counts_more_than_that_of_the_environment(monkeypatch, head, name):
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    environment = dict(os.environ)
    assert JobsApi(jobs_api.address_of_api(head)).jobs() == []
    assert dict(os.environ) | {"RAY_USAGE_STATS_ENABLED": "0"} == environment | {
        "RAY_USAGE_STATS_ENABLED": "0"
    }
