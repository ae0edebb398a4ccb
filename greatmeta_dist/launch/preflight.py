"""What a submitted job looks at before it computes: room, folders, and the package on every node.

Each thing that is wrong would show anyway, but after minutes, in a worker's trace.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from greatmeta_dist.launch.ray_cluster import connected, ray  # isort: split

import greatmeta_dist
from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.display import Silent
from greatmeta_dist.errors import require
from greatmeta_dist.launch.waiting import Need, needed

NODE_S = 120.0
"""How long a node may take to look."""


@dataclass(frozen=True)
class Folders:
    """What a job reads, and what it writes."""

    read: dict[str, Path]
    """By the option that names it. A store or run is known by its main file."""
    written: dict[str, Path]


@contextmanager
def checked_cluster(
    command: str, cluster: ClusterConfig, folders: Folders, *, may_wait: bool
) -> Iterator[str]:
    """Connect to the job's cluster while in the block; gives what was found there, in words.

    Raises ``InputError`` unless it has what the job needs. With ``may_wait`` it may lack workers
    that nodes yet to come bring.
    """
    with connected(cluster, Silent()):
        need = _needed_by(command, cluster)
        lack = None if may_wait else need.lacking_for_ever()
        require(
            lack is None,
            f"the cluster can never have that: {lack}; ask for less, or set cluster.wait_s to wait "
            "for nodes that somebody adds",
        )
        num_nodes = _check_nodes(folders)
        yield _found(num_nodes, [*folders.read, *folders.written])


def _needed_by(command: str, cluster: ClusterConfig) -> Need:
    """The least that a command needs. Only a training cannot begin with some of its workers."""
    if command == "train" and cluster.kind == "ray":
        return needed(cluster)
    gpus = cluster.gpus_per_worker if command == "recommend" else None
    return Need(1, {"CPU": 1.0} | ({"GPU": gpus} if gpus else {}))


def _found(num_nodes: int, names: list[str]) -> str:
    nodes = "1 node sees" if num_nodes == 1 else f"{num_nodes} nodes see"
    return f"{nodes} {' and '.join(names)}"


def _check_nodes(folders: Folders) -> int:
    """Have every node look for the folders; the number of nodes.

    A mark is written into each folder here, and read on all nodes: a folder of the same name may
    be another one there.
    """
    marks: dict[str, Path] = {}
    made: list[Path] = []
    try:
        for name, path in folders.written.items():
            marks[name] = _write_mark(name, path, made)
        here = ray.get_runtime_context().get_node_id()
        nodes = {n["NodeID"]: n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"]}
        looks = {node: _look_on(node, folders, marks) for node in nodes}
        for node, look in looks.items():
            where = f"node {nodes[node]}" + (", where the job runs" if node == here else "")
            _require_seen(look, where, folders)
        return len(nodes)
    finally:
        for path in marks.values():
            path.unlink(missing_ok=True)
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()


def _write_mark(name: str, path: Path, made: list[Path]) -> Path:
    """Write a mark beside what the job will write; notes in ``made`` the folders made for it."""
    folder = path.parent
    try:
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        made += reversed(missing)
        mark = folder / f".greatmeta-{uuid4().hex[:12]}"
        mark.touch()
    except OSError as error:
        require(
            False,
            f"{name}={path} cannot be written where the job runs ({error.strerror}); name a folder "
            "that all nodes share and may write",
        )
    return mark


def _look_on(node: str, folders: Folders, marks: dict[str, Path]) -> "ray.ObjectRef":
    """Start looking on one node; it takes no CPU, so a busy node looks too."""
    there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(_unseen).options(num_cpus=0, scheduling_strategy=there, max_retries=1)
    return task.remote(folders.read, marks)


def _unseen(read: dict[str, Path], marks: dict[str, Path]) -> tuple[str, list[str]]:
    """The package's version on this node, and the options whose folders it does not see."""
    unseen = [name for name, path in read.items() if not path.exists()]
    for name, mark in marks.items():
        with suppress(OSError):
            os.listdir(mark.parent)  # network file systems keep an older listing for a while
        if not mark.exists():
            unseen.append(name)
    return greatmeta_dist.__version__, unseen


def _require_seen(look: "ray.ObjectRef", where: str, folders: Folders) -> None:
    try:
        version, unseen = ray.get(look, timeout=NODE_S)
    except ray.exceptions.GetTimeoutError:
        require(False, f"{where} did not answer in {NODE_S:g} s; look at it in the dashboard")
    except ray.exceptions.RayError as error:
        is_missing = "No module named" in str(error)
        last = [line for line in str(error).splitlines() if line.strip()][-1].strip()
        remedy = "install this package on all nodes, or send it along with submit.wheel"
        require(False, f"{where} cannot run greatmeta: {last}" + (f"; {remedy}" * is_missing))
    require(
        version == greatmeta_dist.__version__,
        f"{where} has greatmeta {version}, and the job {greatmeta_dist.__version__}; install one "
        "version on all nodes, or send it along with submit.wheel",
    )
    paths = {**folders.read, **folders.written}
    for name in unseen:
        require(
            False,
            f"{name}={paths[name]} is not seen by {where}; name a folder that all nodes share",
        )
