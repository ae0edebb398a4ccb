"""Workers on Ray train together, and Ray is needed for nothing else."""

import subprocess
import sys

import pytest
from group_training import config_for, num_workers

from benchmarks.chaos import digest, disturb
from greatmeta_dist.display import Display
from greatmeta_dist.launch.local import launch


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_ray_coordinator_or_raylet_changes_nothing(undisturbed, tmp_path):
    kinds = ["ray coordinator", "raylet"]
    results = disturb(undisturbed, tmp_path, kinds, seed=2, tell=print)
    assert [r.kind for r in results if r.is_same] == kinds
    assert [r.workers for r in results] == [2, 1]


@pytest.mark.slow
def test_ray_trains_with_two_workers_where_it_has_room_for_three(uneven, tmp_path):
    plain = ("train.users_per_batch=8", "train.steps=12")
    launch(config_for(uneven, 1, *plain), tmp_path / "alone", Display())
    words = ("cluster=ray", "cluster.workers=[1,4]", *plain)
    program = f"""
import ray
from greatmeta_dist.cli import main
ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
main(["train", "store={uneven}", "run={tmp_path / "run"}", *{words!r}])
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=240)
    assert num_workers(tmp_path / "run") == 2
    assert digest(tmp_path / "run") == digest(tmp_path / "alone")


def test_without_ray_all_but_cluster_ray_works_and_that_says_what_to_do(uneven, tmp_path):
    words = ["train", f"store={uneven}", "train.users_per_batch=8", "train.steps=3"]
    # Importing a module that is None there fails as one that is not installed.
    program = (
        "import sys; sys.modules['ray'] = None\n"
        "from greatmeta_dist import cli; sys.exit(cli.main())"
    )

    def run(*more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", program, *words, *more], capture_output=True, text=True
        )

    refused = run(f"run={tmp_path / 'a'}", "cluster=ray", "cluster.workers=2")
    assert refused.returncode == 2
    assert "pip install 'ray[train]', or take cluster=local" in refused.stderr
    assert run(f"run={tmp_path / 'b'}", "cluster.workers=2").returncode == 0
