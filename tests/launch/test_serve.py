"""``greatmeta serve`` as people use it: it answers, refuses, and stops when it is told to."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from s3_server import BUCKET, upload
from small_training import prepare_store, small

from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError
from greatmeta_dist.predict import Predictor
from greatmeta_dist.training.loop import train

START_S = 240.0
SERVED = f"s3://{BUCKET}/serve/run"


@dataclass
class Service:
    """A service in a process group of its own, as of a terminal."""

    url: str
    run: Path
    process: subprocess.Popen
    log: Path

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def service(tmp_path_factory, s3_environment):
    """Serves a run from an object store; ``run`` is the same one on disk."""
    folder = tmp_path_factory.mktemp("serve")
    run = folder / "run"
    train(small(prepare_store(folder)), run, Display())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment.items():
            patch.setenv(name, value)
        upload(run, SERVED)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve", f"run={SERVED}", f"serve.port={port}", "serve.max_batch=4"]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "greatmeta_dist", *words],
            stdout=out,
            stderr=out,
            start_new_session=True,
            env=os.environ | s3_environment | {"GREATMETA_CACHE": str(folder / "cache")},
        )
    deadline = time.monotonic() + START_S
    while "stop with Ctrl-C" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    yield Service(f"http://127.0.0.1:{port}", run, process, log)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def user(number: int) -> dict[str, float]:
    return {f"i{(7 * number + 3 * k) % 50}": 1.0 + (number + k) % 5 for k in range(number % 9)}


def test_requests_that_come_together_have_the_answers_of_the_predictor(service):
    predictor = Predictor.load(service.run)

    def ask(number: int) -> Any:
        return service.ask("/recommend", {"interactions": user(number), "k": 1 + number % 7})

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(40)))
    for number, answer in enumerate(answers):
        best = predictor.recommend(user(number), 1 + number % 7)
        assert [one["item"] for one in answer["items"]] == [item for item, _ in best]
        scores = [one["score"] for one in answer["items"]]
        assert scores == pytest.approx([score for _, score in best], abs=1e-5)
    scored = service.ask("/score", {"interactions": user(5), "items": ["i1", "i2"]})
    assert scored["scores"] == pytest.approx(predictor.score(user(5), ["i1", "i2"]), abs=1e-5)
    health = service.ask("/health")
    assert (health["status"], health["step"]) == ("ok", predictor.step)
    assert health["run"] == SERVED
    assert health["items"] == len(predictor.catalogue.item_tokens())


def test_what_is_not_understood_is_one_line(service):
    body = {"interactions": {"i1": 9}, "candidates": ["i2"]}
    with pytest.raises(urllib.error.HTTPError) as caught:
        service.ask("/recommend", body)
    assert caught.value.code == 400
    error = json.load(caught.value)["error"]
    assert error.startswith("the rating of i1 is 9; ratings of this run go from")
    with pytest.raises(urllib.error.HTTPError) as caught:
        service.ask("/recommend", {"k": 1001})
    assert json.load(caught.value)["error"] == "k is 1001; this service gives 1000 items at most"


def test_a_second_service_at_its_port_is_one_line(service):
    words = ["serve", f"run={service.run}", f"serve.port={service.url.rpartition(':')[2]}"]
    done = subprocess.run(
        [sys.executable, "-m", "greatmeta_dist", *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "(Address already in use); choose another" in done.stderr
    assert done.stderr.count("\n") == 1


def test_ctrl_c_ends_it_after_the_requests_under_way(service):
    """Comes last, for it ends the service."""
    os.killpg(service.process.pid, signal.SIGINT)
    assert service.process.wait(60) == 0
    lines = service.log.read_text().splitlines()
    assert lines[-1] == "stopping; requests under way are finished"
    with pytest.raises(urllib.error.URLError):
        service.ask("/health")


# Importing Ray Serve warns of its own use of Pydantic.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "args, message",
    [
        ({}, "args names no run; add run: DIR"),
        ({"run": "runs/a", "max_bath": 3}, "args has max_bath; expected run, replicas, threads"),
        ({"run": "runs/a", "port": 3}, "args has port; expected run, replicas"),
        ({"run": "runs/a", "max_batch": 0}, r"serve.max_batch is 0; it must be 1 or more"),
    ],
)
def test_args_of_a_deployment_are_checked(args, message):
    from greatmeta_dist.launch.serve import application

    with pytest.raises(InputError, match=message):
        application(args)
