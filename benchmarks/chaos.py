"""Kills at random moments: does every training end with the bits of an undisturbed one?

``python -m benchmarks.chaos --work DIR [--at URL] [--kills 24] [--seed 0] [--kinds KIND …] [--json
FILE]``. With ``--at`` store and runs are on an object store.
Real processes are ended by SIGKILL, with and without Ray: a worker, the worker that holds the
coordinator, and the driver while a checkpoint is being written. On Ray also a raylet with all that
it started, of a cluster of three nodes on this machine; the training must then go on with half the
workers. A *silent* worker is stopped, not ended. A run whose driver died is started again by the
same command.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.environment import write_result
from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.display import Display
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.training.run_copy import folder_to_train

KINDS = (
    "worker",
    "coordinator",
    "driver",
    "silent worker",
    "ray worker",
    "ray coordinator",
    "ray driver",
    "raylet",
)
STEPS = 240
PATIENCE_S = 240.0


def digest(run: Path) -> str:
    """Hash of all that a run's last checkpoint holds: θ, φ, optimizers, means, factor averages."""
    saved, skipped = checkpoint.load_latest(run / "checkpoints")
    assert saved is not None
    assert not skipped
    digest_so_far = hashlib.sha256(f"{saved.step}".encode())
    for table, tensors in sorted({"": saved.dense, **saved.tables}.items()):
        for name, tensor in sorted(tensors.items()):
            digest_so_far.update(f"{table}/{name}".encode())
            digest_so_far.update(tensor.contiguous().numpy().tobytes())
    return digest_so_far.hexdigest()


def command(store: str, run: str, *options: str) -> list[str]:
    """The training that is disturbed."""
    return [
        sys.executable,
        "-m",
        "greatmeta_dist",
        "train",
        f"store={store}",
        f"run={run}",
        f"train.steps={STEPS}",
        "train.checkpoint_every=20",
        "train.valid_every=60",
        "train.log_every=10",
        "train.lanes=4",
        "train.users_per_batch=16",
        *options,
    ]


@dataclass
class Training:
    """A training in a process of its own."""

    words: list[str]
    run: Path
    """Its folder; of a run on an object store this machine's copy."""
    log: Path

    @classmethod
    def of(cls, store: str, run: str, log: Path, *options: str) -> "Training":
        return cls(command(store, run, *options), folder_to_train(run), log)

    def start(self) -> None:
        # Ray Train waits so long for a node that is gone before it takes what is left.
        environ = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "25", **os.environ}
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(self.words, stdout=out, stderr=out, env=environ)

    def workers(self) -> list[dict[str, Any]]:
        """The workers that train now; empty before the first start."""
        try:
            workers: list[dict[str, Any]] = json.loads((self.run / "workers.json").read_text())
        except FileNotFoundError:
            return []
        return workers

    def wait(self, condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
        """Wait until a condition holds; what it returns then.

        Raises ``RuntimeError`` where the process ends before, or patience does.
        """
        deadline = time.monotonic() + patience_s
        while not (value := condition()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it did not come to that: {self.log.read_text()[-2000:]}")
            time.sleep(0.002)
        return value

    def step(self) -> int:
        """The step of its last checkpoint; 0 before the first."""
        return max(checkpoint.steps(self.run / "checkpoints"), default=0)

    def end(self) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(PATIENCE_S)


@dataclass(frozen=True)
class Result:
    """One kill, and how the training came out of it."""

    kind: str
    after_s: float
    """From the start of the training's workers to the kill."""
    at_step: int
    """The step of the last checkpoint at the kill."""
    seconds: float
    """From the kill until the training's workers had started again."""
    workers: int
    """Number of workers in the end."""
    is_same: bool
    """Whether the bits are those of the undisturbed training."""


def kill(
    training: Training,
    kind: str,
    rng: random.Random,
    reference: "Undisturbed",
    nodes: "Nodes | None",
) -> Result:
    """Start a training, kill at a random moment, and wait for its end.

    It is killed in the first half of the time that ``reference`` took, and of its steps: a machine
    that was busy then may be faster now. ``is_same`` is left False.
    """
    training.start()
    before = training.wait(training.workers)
    start = time.monotonic()
    moment = start + rng.uniform(0.05, 0.5) * reference.seconds
    while time.monotonic() < moment and 2 * training.step() < reference.steps:
        time.sleep(0.01)
    if kind.endswith("driver"):
        training.wait(lambda: list((training.run / "checkpoints").glob(".partial-*")))
        os.kill(training.process.pid, signal.SIGKILL)
        training.process.wait()
        training.start()
    elif kind == "raylet":
        assert nodes is not None
        nodes.kill_one()
    else:
        victim = before[0 if kind.endswith("coordinator") else 1]["pid"]
        os.kill(victim, signal.SIGSTOP if kind.startswith("silent") else signal.SIGKILL)
    killed = time.monotonic()
    at_step = training.step()
    after = training.wait(lambda: (now := training.workers()) != before and now)
    seconds = time.monotonic() - killed
    code = training.end()
    if code:
        raise RuntimeError(f"exit {code}: {training.log.read_text()[-2000:]}")
    return Result(kind, killed - start, at_step, seconds, len(after), False)


class Nodes:
    """A Ray cluster on this machine: a head without CPUs, and nodes of one CPU each.

    It takes a node for dead after some five seconds, not after Ray's thirty.
    """

    def __init__(self, number: int = 2) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "object_store_memory": 100 << 20,
                "_system_config": {
                    "health_check_initial_delay_ms": 1000,
                    "health_check_period_ms": 1000,
                    "health_check_timeout_ms": 2000,
                    "health_check_failure_threshold": 3,
                },
            },
        )
        self._nodes: list[Any] = []
        self.fill(number)

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def fill(self, number: int = 2) -> None:
        """Add nodes until there are so many."""
        while len(self._nodes) < number:
            node = self._cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
            self._nodes.append(node)

    def kill_one(self) -> None:
        """SIGKILL the raylet of a node and all that it started, as when a machine dies.

        The node is one with a worker, not the one that the driver is attached to.
        """
        for node in self._nodes:
            (raylet,) = node.all_processes["raylet"]
            started = descendants(raylet.process.pid)
            if not any("Mailbox" in title for title in started.values()):
                for pid in (raylet.process.pid, *started):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self._nodes.remove(node)
                return
        raise RuntimeError("the driver is attached to every node")

    def close(self) -> None:
        self._cluster.shutdown()


def descendants(root: int) -> dict[int, str]:
    """Processes that a process started, directly or not, with their command lines."""
    parent, title = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
            title[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
    found: dict[int, str] = {}
    level = {root}
    while level:
        level = {pid for pid, above in parent.items() if above in level and pid in title}
        found |= {pid: title[pid] for pid in level}
    return found


@contextmanager
def cluster(kinds: list[str]) -> Iterator[Nodes | None]:
    """The nodes that these kinds of kills need; None where none needs any."""
    if not any(kind.startswith("ray") for kind in kinds):
        yield None
        return
    nodes = Nodes()
    try:
        yield nodes
    finally:
        nodes.close()


@dataclass(frozen=True)
class Undisturbed:
    """A training that nobody disturbed."""

    store: str
    options: tuple[str, ...]
    """Those of all trainings that are compared with it."""
    digest: str
    steps: int
    seconds: float

    @classmethod
    def of(cls, root: str, log: Path, *options: str) -> "Undisturbed":
        """Prepare a store below ``root``, a folder or a URL, and train on it."""
        store = f"{root}/store"
        prepare(DataConfig(users=400, items=200, mean_interactions=30), store)
        training = Training.of(store, f"{root}/undisturbed", log, *options, "cluster.workers=2")
        training.start()
        training.wait(training.workers)
        start = time.monotonic()
        if training.end():
            raise RuntimeError(training.log.read_text()[-2000:])
        seconds = time.monotonic() - start
        return cls(store, options, digest(training.run), training.step(), seconds)


def disturb(
    reference: Undisturbed,
    work: Path,
    kinds: list[str],
    seed: int,
    tell: Callable[[str], None],
    *,
    at: str | None = None,
    nodes: Nodes | None = None,
) -> list[Result]:
    """One training for each of the kinds, each killed once; ``tell`` is given a line for each.

    Logs are in ``work``, and so are the runs, where they are not below the URL ``at``. Where Ray is
    needed it is ``nodes``, or a cluster of its own.
    """
    root = at or str(work)
    rng = random.Random(seed)
    results = []
    with cluster(kinds) if nodes is None else nullcontext(nodes) as nodes:
        for number, kind in enumerate(kinds):
            options = ["cluster.workers=2"]
            if nodes is not None and kind.startswith("ray"):
                nodes.fill()
                options = ["cluster=ray", f"cluster.address={nodes.address}"]
                options.append("cluster.workers=" + ("[1,2]" if kind == "raylet" else "2"))
            log = work / f"kill-{number}.log"
            training = Training.of(
                reference.store, f"{root}/kill-{number}", log, *reference.options, *options
            )
            result = kill(training, kind, rng, reference, nodes)
            result = replace(result, is_same=digest(training.run) == reference.digest)
            results.append(result)
            tell(
                f"{number + 1:3}  {kind:16} after {result.after_s:5.1f} s, step {result.at_step:4}"
                f"  back after {result.seconds:5.1f} s, {result.workers} workers"
                f"  {'same bits' if result.is_same else 'OTHER BITS'}"
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="a new folder; runs go here")
    parser.add_argument("--at", help="URL of a folder for the store and the runs")
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True)
    kinds = [options.kinds[k % len(options.kinds)] for k in range(options.kills)]
    log = options.work / "undisturbed.log"
    reference = Undisturbed.of(options.at or str(options.work), log)
    say = Display().say
    results = disturb(reference, options.work, kinds, options.seed, say, at=options.at)
    same = sum(r.is_same for r in results)
    print(f"{same} of {len(results)} trainings ended with the bits of the undisturbed one")
    write_result(options.json, options, {"kills": [asdict(r) for r in results]})
    sys.exit(same != len(results))


if __name__ == "__main__":
    main()
