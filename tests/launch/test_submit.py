"""Commands run as jobs of a real Ray cluster, and each way in which they cannot is one line.

The jobs are those of the README's section on clusters; more claims are read off them.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from documents import Document
from logs import write_log
from proxy import Proxy
from ray_head import NUM_NODES, Head, ray_head
from reader import in_folder
from s3_server import BUCKET, KEY, SECRET
from small_training import CHEAP_PRIORS, prepare_store

from benchmarks.chaos import digest
from greatmeta_dist.cli import main
from greatmeta_dist.commands import jobs as jobs_command
from greatmeta_dist.display import Silent
from greatmeta_dist.launch.local import launch
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.storage.objects import ObjectFolder
from greatmeta_dist.training.history import History

# Of what Ray's client calls in aiohttp.
pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")

SMALL = (
    "train.users_per_batch=8",
    "train.steps=400",
    "train.checkpoint_every=20",
    "train.valid_every=200",
    *CHEAP_PRIORS,
)
START_S = 240.0
"""How long a job may take until it trains."""


@pytest.fixture(scope="module")
def credentials(tmp_path_factory) -> Path:
    """Where nodes look for their credentials of S3; there are none yet."""
    return tmp_path_factory.mktemp("aws") / "credentials"


@pytest.fixture(scope="module")
def head(s3_environment, credentials, tmp_path_factory) -> Iterator[Head]:
    """A cluster whose head alone has credentials of S3."""
    of_head = s3_environment | {"GREATMETA_CACHE": str(tmp_path_factory.mktemp("cache"))}
    none = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    of_nodes = s3_environment | none | {"AWS_SHARED_CREDENTIALS_FILE": str(credentials)}
    with ray_head(of_head=of_head, of_nodes=of_nodes) as head:
        yield head


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The only line of its error."""
        (line,) = self.err.splitlines()
        assert line.startswith("greatmeta: ")
        assert "Traceback" not in self.out
        return line


Run = Callable[..., Done]


@pytest.fixture
def run(head, monkeypatch, capsys) -> Run:
    """Runs a command of greatmeta as somebody does whom the cluster lets in."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", head.dashboard)

    def run(*words: str) -> Done:
        code = main(list(words))
        return Done(code, *capsys.readouterr())

    return run


def wait_for(is_there: Callable[[], object]) -> None:
    deadline = time.monotonic() + START_S
    while not is_there():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def readme_commands(folder: Path) -> list[list[str]]:
    """The commands of the README's section on clusters, as typed in a folder."""
    text = Document("README.md").text
    start = text[: text.index("## On a cluster")].count("\n")
    block = next(b for b in Document("README.md").blocks("sh") if b.line > start)
    commands = [in_folder(words, folder) for words in block.commands()]
    return [[*words, *SMALL] if "train" in words else words for words in commands]


@pytest.mark.timeout(900)
def test_the_readme_s_commands_train_through_a_dead_node_evaluate_and_recommend(
    head, run, tmp_path, monkeypatch
):
    start, jobs, kill, watch, evaluate, recommend = readme_commands(tmp_path)
    store = prepare_store(tmp_path)
    (tmp_path / "stores").mkdir()
    store.rename(tmp_path / "stores/first")
    (tmp_path / "log.csv").rename(tmp_path / "new-users.csv")
    folder = tmp_path / "runs/job"

    started = run(*start[1:])
    assert started.code == 0, started
    assert "KiB" in started.out
    assert f"{1 + NUM_NODES} nodes see store and run" in started.out
    other = run(*start[1:], "train.seed=7")
    assert other.code == 2
    assert "is at work on" in other.line
    (listed,) = run(*jobs[1:]).out.splitlines()
    assert "RUNNING" in listed
    assert str(folder) in listed

    assert kill == ["kill", "$node"]
    wait_for(lambda: list(folder.glob("checkpoints/*/manifest.json")))
    head.kill_a_node_with_a_worker()

    def write_and_interrupt(text: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:  # Ctrl-C as soon as the job's output comes
        patch.setattr(jobs_command, "_write", write_and_interrupt)
        left = run(*watch[1:])
    assert left.code == 1
    assert "goes on; follow it again: greatmeta jobs follow" in left.out

    watched = run(*watch[1:])
    assert watched.code == 0, watched
    assert "is at work on that already; following it" in watched.out
    assert "is at step 400" in watched.out
    assert f"resuming {folder} after step" in watched.out
    assert "restart" in [event.kind for event in History(folder).events()]
    assert not (folder / ".ray").exists()
    words = [word for word in start if "=" in word and not word.startswith(("run=", "cluster."))]
    launch(compose_config([*words, "cluster.workers=1"]), tmp_path / "alone", Silent())
    assert digest(folder) == digest(tmp_path / "alone")

    evaluated = run(*evaluate[1:])
    assert evaluated.code == 0, evaluated
    assert json.loads((folder / "evaluation.json").read_text())["scenarios"]
    recommended = run(*recommend[1:])
    assert recommended.code == 0, recommended
    assert (tmp_path / "lists.parquet").stat().st_size > 0
    listed = run(*jobs[1:]).out.splitlines()
    assert [line.split("-")[0] for line in listed] == ["train", "evaluate", "recommend"]
    assert all("SUCCEEDED" in line for line in listed)


def test_a_job_that_can_never_run_ends_with_code_2_and_says_why(run, uneven, tmp_path):
    words = [f"store={uneven}", f"run={tmp_path / 'run'}", "cluster.gpus_per_worker=1"]
    done = run("submit", "--", "train", *words, *SMALL)
    assert done.code == 2
    assert "1 worker needs 1 GPU, and it has 0" in done.out.splitlines()[-1]
    assert done.err == ""
    assert list(tmp_path.iterdir()) == []


def test_prepare_is_a_job_once_all_nodes_reach_the_object_store_it_writes_to(
    run, s3_environment, credentials, tmp_path, monkeypatch
):
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    folder = f"s3://{BUCKET}/jobs"
    words = ["data=csv", f"data.path={write_log(tmp_path)}", f"store={folder}/store"]
    words.append("data.columns={user: u, item: i, rating: r, timestamp: t}")
    refused = run("submit", "--", "prepare", *words)
    assert refused.code == 2
    assert refused.err == ""
    line = refused.out.splitlines()[-1]
    assert line.startswith(f"greatmeta: store={folder}/store is not seen by node ")
    assert "where the job runs" not in line
    assert line.endswith("has the object store's address and credentials in its environment")
    assert ObjectFolder(folder).files() == {}

    credentials.write_text(f"[default]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
    done = run("submit", "--", "prepare", *words)
    assert done.code == 0, done
    assert "nodes see data.path and store" in done.out
    names = ObjectFolder(folder).files()
    assert "store/manifest.json" in names
    assert not [name for name in names if ".greatmeta-" in name]


def test_a_head_without_the_package_is_one_line(run, uneven, tmp_path):
    venv.create(tmp_path / "empty")
    python = f"submit.python={tmp_path / 'empty/bin/python'}"
    done = run("submit", python, "--", "train", f"store={uneven}", f"run={tmp_path / 'run'}")
    assert done.code == 1
    assert "has no greatmeta_dist; install it on its nodes" in done.line
    assert "No module" not in done.out


@contextmanager
def typed(head: Head, *words: str) -> Iterator[subprocess.Popen]:
    """A command in a process of its own, as of a terminal; it is killed after the block."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "greatmeta_dist", *words],
        env=head.environment | {"RAY_API_SERVER_ADDRESS": head.dashboard},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def read_to(process: subprocess.Popen, text: str) -> str:
    """Read a process's output up to a line that holds a text; that line."""
    assert process.stdout is not None
    while text not in (line := process.stdout.readline()):
        assert line, process.communicate()
    return line


@pytest.mark.timeout(300)
def test_a_job_outlives_its_terminal_and_the_connection_and_ends_with_1_where_it_is_stopped(
    head, run, uneven, tmp_path
):
    words = ("--", "train", f"store={uneven}", f"run={tmp_path / 'run'}", "train.steps=100000")
    with typed(head, "submit", *words) as closed:
        job = read_to(closed, "is submitted").split()[1]
    proxy = Proxy(head.dashboard)
    with typed(head, "submit", f"cluster.address={proxy.address}", *words) as again:
        assert job in read_to(again, "is at work on that already; following it")
        wait_for((tmp_path / "run/tensorboard").exists)
        proxy.close()
        assert "does not answer any more; the job goes on" in read_to(again, proxy.address)
        proxy.open()
        read_to(again, "connected again")
        assert run("jobs", "stop", job).code == 0
        rest = again.communicate(timeout=120)
    proxy.close()
    assert again.returncode == 1
    assert f"greatmeta: job {job} was stopped" in rest[1]
    assert list((tmp_path / "run/checkpoints").iterdir())
    jobs = [line for line in run("jobs").out.splitlines() if str(tmp_path) in line]
    assert [line.split()[0] for line in jobs] == [job]


@pytest.mark.timeout(300)
def test_a_sweep_s_trainings_share_the_cluster(head, uneven, tmp_path):
    words = [f"store={uneven}", "cluster.workers=1", "train.users_per_batch=8", "train.steps=4"]
    on_ray = ["cluster=ray", f"cluster.address={head.gcs}", f"run={tmp_path / 'sweep'}"]
    with typed(head, "train", "-m", *words, *on_ray, "train.seed=1,2") as sweep:
        out, err = sweep.communicate(timeout=240)
    assert sweep.returncode == 0, out + err
    runs = json.loads((tmp_path / "sweep/summary.json").read_text())["runs"]
    assert {r["run"]: r["status"] for r in runs} == {"train.seed=1": "done", "train.seed=2": "done"}
    launch(compose_config([*words, "train.seed=2"]), tmp_path / "alone", Silent())
    assert digest(tmp_path / "sweep/train.seed=2") == digest(tmp_path / "alone")
    logs = [path.read_text() for path in (tmp_path / "sweep").glob("*/train.log")]
    assert not any("raylet" in text for text in (out, err, *logs))


@pytest.mark.timeout(300)
def test_waiting_for_a_cluster_says_for_what_and_ends_at_a_signal(head, uneven, tmp_path):
    words = [
        "train", f"store={uneven}", f"run={tmp_path / 'run'}", "cluster=ray",
        f"cluster.address={head.gcs}", "cluster.workers=8", "train.users_per_batch=8",
    ]  # fmt: skip
    with typed(head, *words) as process:
        read_to(
            process,
            "waiting for the cluster to grow or to be free: 8 workers need 8 CPU, and it has ",
        )
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert output == "greatmeta: interrupted; run the same command again to go on\n"


def test_each_way_in_which_a_cluster_does_not_answer_is_one_line(
    head, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path))
    command = ("--", "train", "store=/shared/store", "run=/shared/run")

    def refused(address: str, *words: str) -> str:
        assert main(["submit", f"cluster.address={address}", *(words or command)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        return line

    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    assert "asks for a token; set RAY_AUTH_TOKEN" in refused(head.dashboard)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    assert "refuses the token in RAY_AUTH_TOKEN" in refused(head.dashboard)
    assert "is no Jobs API of Ray" in refused(f"http://{head.gcs}")
    assert "expected http://HOST:PORT" in refused(head.gcs)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert "nothing answers at" in refused(f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert "did you mean train.steps" in refused(head.dashboard, *command, "train.stepz=3")
    assert "run=runs/a is a relative path" in refused(
        head.dashboard, "--", "train", "store=/s", "run=runs/a"
    )


def test_a_training_says_in_one_line_that_its_token_is_wrong(
    head, uneven, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["train", f"store={uneven}", f"run={tmp_path / 'run'}", "cluster=ray"]

    def refused(address: str) -> str:
        assert main([*words, f"cluster.address={address}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    assert "asks for a token" in refused(head.gcs)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    assert "refuses the token" in refused(head.gcs)
    assert "submit this one: greatmeta submit" in refused(head.dashboard)
    assert "is no Ray cluster" in refused(head.dashboard.removeprefix("http://"))
    assert not (tmp_path / "run").exists()


def test_a_relative_run_in_a_job_is_refused(tmp_path, monkeypatch, capsys):
    folder = Path(tmp_path, "working_dir_files", "_ray_pkg_1")
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert main(["train", "store=/shared/store", "run=runs/a"]) == 2
    assert "store" in capsys.readouterr().err
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert main(["train", "store=/shared/store", "run=runs/a"]) == 2
    assert "this job starts in a folder that Ray deletes" in capsys.readouterr().err
