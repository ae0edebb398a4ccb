"""A cluster prepares the same bytes as this process alone, whoever dies meanwhile."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from logs import csv_config, write_log
from small_training import prepare_store, small

from greatmeta_dist.commands import recommend as recommend_command
from greatmeta_dist.config import ClusterConfig, Config, DataConfig
from greatmeta_dist.data import scan, text_units
from greatmeta_dist.data.prepare import WORK, prepare
from greatmeta_dist.display import Silent
from greatmeta_dist.errors import InputError
from greatmeta_dist.launch.units import unit_runner
from greatmeta_dist.recommend import recommend_users
from greatmeta_dist.training.loop import train


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A Ray with room for four tasks, which all tests share."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def config(tmp_path, monkeypatch) -> DataConfig:
    """A small log in many units and buckets."""
    monkeypatch.setattr(scan, "UNIT_ROWS", 300)
    monkeypatch.setattr(scan, "BUCKET_BYTES", 5000)
    monkeypatch.setattr(text_units, "UNIT_BYTES", 8000)
    items = tmp_path / "items.csv"
    items.write_text("i,kind\n" + "".join(f"i{k},{k % 3}\n" for k in range(50)))
    return csv_config(
        write_log(tmp_path),
        items_path=str(items),
        item_features={"kind": "token"},
        repeats="reject",
    )


def manifest_text(store: Path) -> str:
    return (store / "manifest.json").read_text()


def prepare_on_ray(config: DataConfig, store: Path, workers: int, wrap=lambda function: function):
    """Prepare by Ray tasks; ``wrap`` changes the functions whose units are run."""
    with unit_runner(ClusterConfig(kind="ray", workers=workers), Silent()) as on_ray:

        def run_units(function, units):
            yield from on_ray(wrap(function), units)

        prepare(config, store, run_units=run_units)


def test_one_two_and_four_workers_write_the_bytes_of_a_local_preparation(config, tmp_path):
    prepare(config, tmp_path / "local")
    for workers in (1, 2, 4):
        prepare_on_ray(config, tmp_path / str(workers), workers)
        assert manifest_text(tmp_path / str(workers)) == manifest_text(tmp_path / "local")


def test_a_killed_worker_costs_its_task_alone(config, tmp_path):
    killed, runs = tmp_path / "killed", tmp_path / "runs"
    runs.mkdir()

    def dying(function):
        def run(number, unit):
            (runs / f"{os.getpid()}-{number}-{time.monotonic_ns()}").touch()
            result = function(number, unit)
            if type(function.function).__name__ == "SplitUnit" and number == 1:
                try:
                    killed.touch(exist_ok=False)
                except FileExistsError:
                    return result
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return run

    prepare(config, tmp_path / "local")
    prepare_on_ray(config, tmp_path / "store", 2, dying)
    assert killed.exists()
    assert manifest_text(tmp_path / "store") == manifest_text(tmp_path / "local")


def test_bad_input_met_by_a_worker_is_the_same_line(config, tmp_path):
    def failing(function):
        def run(number, unit):
            raise InputError("log.csv is bad; mend it")

        return run

    with pytest.raises(InputError, match=r"^log.csv is bad; mend it$"):
        prepare_on_ray(config, tmp_path / "store", 2, failing)
    assert not (tmp_path / "store").exists()


def test_a_worker_that_does_not_see_the_folder_is_one_line(config, tmp_path):
    def elsewhere(function):
        def run(number, unit):
            moved = type(function)(Path("/nowhere/phases/x"), function.function)
            return moved(number, unit)

        return run

    with pytest.raises(InputError, match="a worker does not see /nowhere/phases; store=DIR, and"):
        prepare_on_ray(config, tmp_path / "store", 2, elsewhere)


def test_a_unit_that_ends_every_worker_is_given_up(config, tmp_path, monkeypatch):
    monkeypatch.setattr("greatmeta_dist.launch.ray_units.MAX_RETRIES", 1)

    def dying(function):
        def run(number, unit):
            os.kill(os.getpid(), signal.SIGKILL)

        return run

    with pytest.raises(RuntimeError, match="a worker died 2 times over one part of the log"):
        prepare_on_ray(config, tmp_path / "store", 1, dying)
    prepare_on_ray(config, tmp_path / "store", 2)  # it goes on


def test_workers_recommend_the_bytes_of_this_process(tmp_path, monkeypatch):
    train(small(prepare_store(tmp_path), steps=4), tmp_path / "run", Silent())
    monkeypatch.setattr(recommend_users, "MAX_USERS", 16)
    monkeypatch.setattr(scan, "BUCKET_BYTES", 5000)
    for kind, workers in (("local", 1), ("ray", 2)):
        config = Config(
            run=str(tmp_path / "run"),
            users=str(tmp_path / "log.csv"),
            out=str(tmp_path / kind),
            k=5,
            cluster=ClusterConfig(kind=kind, workers=workers),
        )
        recommend_command.recommend_users(config, display=Silent())
    parts = sorted((tmp_path / "local").iterdir())
    assert len(parts) > 2
    for part in parts:
        assert (tmp_path / "ray" / part.name).read_bytes() == part.read_bytes()


KILLED = """
import pickle
import sys
from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.data import scan, text_units
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.display import Silent
from greatmeta_dist.launch.units import unit_runner
scan.UNIT_ROWS, scan.BUCKET_BYTES, text_units.UNIT_BYTES = 300, 5000, 8000
config = pickle.load(open(sys.argv[1], "rb"))
cluster = ClusterConfig(kind="ray", address=sys.argv[3])
with unit_runner(cluster, Silent()) as run_units:
    prepare(config, sys.argv[2], run_units=run_units)
"""


def test_a_killed_driver_goes_on_when_the_command_is_repeated(config, tmp_path):

    (tmp_path / "config").write_bytes(pickle.dumps(config))
    address = ray.get_runtime_context().gcs_address
    words = [str(tmp_path / "config"), str(tmp_path / "store"), address]
    driver = subprocess.Popen([sys.executable, "-c", KILLED, *words])
    deadline = time.monotonic() + 60
    while not (done := marks(tmp_path / "store", "check-the-log")):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    driver.kill()
    driver.wait()
    before = {path: path.stat().st_mtime_ns for path in done}
    seen = {}

    def watch(phase: str, share: float) -> None:
        if phase == "split users" and not seen:
            seen.update({path: path.stat().st_mtime_ns for path in before})

    with unit_runner(ClusterConfig(kind="ray", workers=2), Silent()) as run_units:
        prepare(config, tmp_path / "store", watch, run_units=run_units)
    assert seen == before  # these were not done again
    prepare(config, tmp_path / "local")
    assert manifest_text(tmp_path / "store") == manifest_text(tmp_path / "local")


def marks(store: Path, phase: str) -> list[Path]:
    return list(store.glob(f"{WORK}/*/phases/{phase}/done-*.json"))


NODE_KILLED = """
import pickle
import sys
import ray
from ray.cluster_utils import Cluster
from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.data import scan, text_units
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.display import Silent
from greatmeta_dist.launch.units import unit_runner
scan.UNIT_ROWS, scan.BUCKET_BYTES, text_units.UNIT_BYTES = 100, 1000, 4000
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
nodes = [cluster.add_node(num_cpus=2)]
ray.init(address=cluster.address, log_to_driver=False)
def progress(phase, share):
    if phase == "split users" and share > 0.5 and nodes:
        cluster.remove_node(nodes.pop(), allow_graceful=False)
try:
    with unit_runner(ClusterConfig(kind="ray"), Silent()) as run_units:
        prepare(pickle.load(open(sys.argv[1], "rb")), sys.argv[2], progress, run_units=run_units)
    assert not nodes
finally:
    ray.shutdown()
    cluster.shutdown()  # else a later ray.init() of this machine would look for it
"""


@pytest.mark.slow
def test_a_killed_node_costs_its_tasks_alone(config, tmp_path, monkeypatch):
    (tmp_path / "config").write_bytes(pickle.dumps(config))
    words = [str(tmp_path / "config"), str(tmp_path / "store")]
    subprocess.run([sys.executable, "-c", NODE_KILLED, *words], check=True, timeout=200)
    monkeypatch.setattr(scan, "UNIT_ROWS", 100)
    monkeypatch.setattr(scan, "BUCKET_BYTES", 1000)
    prepare(config, tmp_path / "local")
    assert manifest_text(tmp_path / "store") == manifest_text(tmp_path / "local")
