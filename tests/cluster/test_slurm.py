"""The script for Slurm: its rules, and a run of it beside programs that stand in for Slurm's."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from edited_files import CLUSTER, assert_says, said_of

SCRIPT = "slurm/train.sh"
SIGNAL = "#SBATCH --signal=B:TERM@180"
STAND_INS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    # As Slurm does, a job that is queued again is told so with SIGKILL; here the call is enough.
    # So many nodes that a reader of the first line alone would end it with SIGPIPE.
    "scontrol": (
        '[[ $1 == show ]] || { echo "$@" >> "$LOG/requeued"; exit; }\n'
        "echo localhost; for node in {1..20000}; do echo node$node; done"
    ),
    "hostname": "echo 10.1.2.3 192.168.1.2",
    "ip": 'echo "2: ib7    inet 10.1.2.3/16 brd 10.1.255.255 scope global ib7"',
    "squeue": 'cat "$LOG/state"',
    "ray": 'echo "$@" > "$LOG/ray"; until [[ $1 == -- ]]; do shift; done; shift; "$@"',
    "greatmeta": (
        "trap 'echo told >> \"$LOG/told\"; exit 1' TERM\n"
        'echo "$@" > "$LOG/greatmeta"; env > "$LOG/env"; mv "$LOG/env" "$LOG/environment"\n'
        'while [[ ! -e $LOG/end ]]; do sleep 0.05; done; exit "$(cat "$LOG/end")"'
    ),
}


class Job:
    """A batch script that Slurm has started, with stand-ins for what it calls."""

    def __init__(self, folder: Path, *words: str, **variables: str):
        self.folder, programs = folder, folder / "venv/bin"
        programs.mkdir(parents=True)
        for name, code in STAND_INS.items():
            (programs / name).write_text(f"#!/usr/bin/env bash\n{code}\n")
            (programs / name).chmod(0o755)
        (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
        (folder / "state").write_text("RUNNING")
        environment = {
            "PATH": os.environ["PATH"],
            "LOG": str(folder),
            "GREATMETA_VENV": str(folder / "venv"),
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "node[1-3]",
            "SLURM_JOB_NUM_NODES": "3",
            "SLURM_CPUS_PER_TASK": "4",
            "SLURM_GPUS_ON_NODE": "2",
        }
        self.process = subprocess.Popen(
            ["bash", CLUSTER / SCRIPT, *words],
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def log(self, name: str) -> str | None:
        path = self.folder / name
        return path.read_text().strip() if path.exists() else None

    def wait_until_training(self) -> None:
        deadline = time.monotonic() + 30
        while not self.log("environment"):
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def end_training(self, code: int) -> None:
        (self.folder / "code").write_text(str(code))
        (self.folder / "code").rename(self.folder / "end")

    def finish(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=30)
        return self.process.returncode, output


@pytest.fixture
def job(tmp_path):
    started = Job(tmp_path, "/shared/store", "/shared/run", "train.steps=7")
    yield started
    if started.process.poll() is None:
        os.killpg(started.process.pid, signal.SIGKILL)


def test_training_gets_the_job_s_nodes_and_a_token(job):
    job.wait_until_training()
    assert job.log("greatmeta") == (
        "train store=/shared/store run=/shared/run cluster=ray cluster.address=auto "
        "cluster.workers=4 train.steps=7"  # the largest power of two in 3 nodes with 2 GPUs
    )
    words = job.log("ray").split()
    assert words[:2] == ["symmetric-run", "--address"]
    assert words[2] == f"10.1.2.3:{20000 + os.getpid() % 10000}"  # and not localhost's
    assert words[3:7] == ["--min-nodes", "3", "--num-cpus=4", "--num-gpus=2"]
    environment = dict(line.split("=", 1) for line in job.log("environment").splitlines())
    assert environment["RAY_AUTH_MODE"] == "token"
    assert len(environment["RAY_AUTH_TOKEN"]) == 64
    assert environment["RAY_AUTH_TOKEN"] not in job.log("ray")
    assert environment["GLOO_SOCKET_IFNAME"] == "ib7"
    job.end_training(0)
    assert job.finish()[0] == 0
    assert job.log("requeued") is None
    assert not Path(environment["RAY_TMPDIR"]).exists()


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_job_ends_with_the_training_s_own_code(code, job):
    job.wait_until_training()
    job.end_training(code)
    assert job.finish()[0] == code
    assert job.log("requeued") is None


def test_what_an_earlier_start_of_the_job_left_is_removed(tmp_path):
    left = Path(f"/tmp/greatmeta-{os.getpid()}")
    left.mkdir()
    (left / "driver.pid").write_text("1")
    job = Job(tmp_path, "/store", "/run")
    job.wait_until_training()
    assert (left / "driver.pid").read_text() != "1"
    job.end_training(0)
    assert job.finish()[0] == 0
    assert not left.exists()


def test_a_training_that_was_killed_is_queued_again(job):
    job.wait_until_training()
    job.end_training(137)
    code, output = job.finish()
    assert code == 0
    assert job.log("requeued") == f"requeue {os.getpid()}"
    assert output.splitlines()[0] == "training was ended from outside (137)"


def test_a_training_that_was_killed_ten_times_is_given_up(tmp_path):
    job = Job(tmp_path, "/store", "/run", SLURM_RESTART_COUNT="10")
    job.wait_until_training()
    job.end_training(137)
    assert job.finish()[0] == 137
    assert job.log("requeued") is None


def test_before_the_time_is_over_training_stops_and_is_queued_again(job):
    job.wait_until_training()
    os.kill(job.process.pid, signal.SIGTERM)
    code, output = job.finish()
    assert code == 0
    assert job.log("told") == "told"
    assert job.log("requeued") == f"requeue {os.getpid()}"
    assert output.splitlines() == [
        "stopping after the next step, with a checkpoint",
        "queued again; it goes on from its checkpoint",
    ]


def test_a_job_that_somebody_cancels_is_not_queued_again(job):
    job.wait_until_training()
    (job.folder / "state").write_text("COMPLETING")
    os.kill(job.process.pid, signal.SIGTERM)
    assert job.finish()[0] == 1
    assert job.log("told") == "told"
    assert job.log("requeued") is None


def test_usr1_stops_with_a_checkpoint_for_good(job):
    job.wait_until_training()
    os.kill(job.process.pid, signal.SIGUSR1)
    assert job.finish()[0] == 1
    assert job.log("told") == "told"
    assert job.log("requeued") is None


@pytest.mark.parametrize(
    "words, variables, expected",
    [
        ((), {}, "name the store: train.sh STORE RUN [OPTION…]"),
        (("/store",), {}, "name the run: train.sh STORE RUN [OPTION…]"),
        (("store", "/run"), {}, "store is not an absolute path on shared storage"),
        (("/store", "/run"), {"GREATMETA_VENV": ""}, "name the folder of the environment"),
    ],
)
def test_a_job_without_folders_ends_at_once(words, variables, expected, tmp_path):
    code, output = Job(tmp_path, *words, **variables).finish()
    assert code != 0
    assert expected in output
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize("gpus, cpus, nodes, workers", [(0, 3, 2, 4), (1, 8, 5, 4), (8, 64, 2, 16)])
def test_workers_are_the_largest_power_of_two_that_fits(gpus, cpus, nodes, workers, tmp_path):
    job = Job(
        tmp_path,
        "/store",
        "/run",
        SLURM_GPUS_ON_NODE=str(gpus),
        SLURM_CPUS_PER_TASK=str(cpus),
        SLURM_JOB_NUM_NODES=str(nodes),
    )
    job.wait_until_training()
    assert f"cluster.workers={workers}" in job.log("greatmeta").split()
    job.end_training(0)
    assert job.finish()[0] == 0


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("#SBATCH --nodes=4", "#SBATCH --node=4", "line 10: #SBATCH --node=4 is no known option"),
        ("#SBATCH --nodes=4", "#SBATCH nodes=4", "#SBATCH nodes=4 is no known option of sbatch"),
        (
            "set -euo pipefail",
            "set -eu\n#SBATCH --mem=1G",
            "#SBATCH --mem=1G stands after the first",
        ),
        ("#!/usr/bin/env bash\n", "", "line 1: no #!: sbatch refuses a script without it"),
        ("set -euo pipefail", "", "no set -e: a step that fails would be passed over"),
        ("--ntasks-per-node=1", "--ntasks-per-node=2", "expected 1: one Ray for each node"),
        ("#SBATCH --exclusive", "", "--exclusive: missing: two Rays of one user on a node"),
        ("#SBATCH --requeue", "", "--requeue: missing: a lost node would end the training"),
        ("#SBATCH --time=24:00:00", "", "--time: missing"),
        (SIGNAL, "#SBATCH --signal=TERM@180", "TERM@180; expected B:TERM@60 or more"),
        (SIGNAL, "#SBATCH --signal=B:TERM@10", "B:TERM@10; expected B:TERM@60 or more"),
        (SIGNAL, "", "--signal: missing; expected B:TERM@60 or more"),
        ("ray symmetric-run", "ray start", "no ray symmetric-run OPTIONS -- COMMAND"),
        ('--address "$address:$port"', "--port=1", "--port=1 is refused: symmetric-run gives it"),
        ('--address "$address:$port"', "--port=1", "ray symmetric-run: no --address"),
        ('--min-nodes "$SLURM_JOB_NUM_NODES"', "", "ray symmetric-run: no --min-nodes"),
        ("export RAY_AUTH_MODE=token", "export", "other users of the nodes could join"),
        (
            "RAY_AUTH_TOKEN=$(python",
            "RAY_AUTH_TOKEN=abc; $(python",
            "the token stands here for all",
        ),
        ("trap 'stop requeue' TERM", "", "no trap for TERM: the signal would end the script"),
        ("scontrol requeue", "scontrol show", "training would end with the time limit"),
        ('    wait "$ray" || code=$?', "", "no wait: a trap runs only between commands"),
    ],
)
def test_a_script_that_would_lose_work_or_stand_open_fails_here(old, new, expected, tmp_path):
    assert_says(said_of(SCRIPT, old, new, tmp_path), expected)
