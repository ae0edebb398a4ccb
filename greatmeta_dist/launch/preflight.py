"""What a submitted job looks at before it computes: room, folders, and the package on every node.

Each thing that is wrong would show anyway, but after minutes, in a worker's trace.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from greatmeta_dist.launch.ray_cluster import connected, ray  # isort: split

import greatmeta_dist
from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.display import Silent
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.launch.places import delete_mark, is_there, write_mark
from greatmeta_dist.launch.waiting import Need, needed
from greatmeta_dist.storage.objects import is_url

NODE_S = 120.0
"""How long a node may take to look."""


@dataclass(frozen=True)
class Folders:
    """What a job reads, and what it writes."""

    read: dict[str, str]
    """By the option that names it. A store or run is known by its main file."""
    written: dict[str, str]
    left: tuple[str, ...] = ()
    """Options that are left to the command: patterns of several files."""


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
        yield _found(num_nodes, folders)


def _needed_by(command: str, cluster: ClusterConfig) -> Need:
    """The least that a command needs. Only a training cannot begin with some of its workers."""
    if command == "train" and cluster.kind == "ray":
        return needed(cluster)
    gpus = cluster.gpus_per_worker if command == "recommend" else None
    return Need(1, {"CPU": 1.0} | ({"GPU": gpus} if gpus else {}))


def _found(num_nodes: int, folders: Folders) -> str:
    names = " and ".join([*folders.read, *folders.written]) or "this package"
    left = f"; {' and '.join(folders.left)}: the command looks itself" if folders.left else ""
    return f"{'1 node sees' if num_nodes == 1 else f'{num_nodes} nodes see'} {names}{left}"


def _check_nodes(folders: Folders) -> int:
    """Have every node look for the folders; the number of nodes.

    A mark is written into each folder here, and read on all nodes: a folder of the same name may
    be another one there.
    """
    marks: dict[str, str] = {}
    made: list[Path] = []
    try:
        for name, path in folders.written.items():
            marks[name] = _write_mark(name, path, made)
        here = ray.get_runtime_context().get_node_id()
        nodes = {n["NodeID"]: n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"]}
        looks = {node: _look_on(node, folders, marks) for node in nodes}
        # A look that is under way when the job ends is a line of Ray's own in its log.
        ray.wait(list(looks.values()), num_returns=len(looks), timeout=NODE_S)
        # What is seen nowhere is said of this node, which comes first.
        for node, look in sorted(looks.items(), key=lambda item: item[0] != here):
            where = f"node {nodes[node]}" + (", where the job runs" if node == here else "")
            _require_seen(look, where, folders)
        return len(nodes)
    finally:
        for mark in marks.values():
            delete_mark(mark)
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()


def _write_mark(name: str, path: str, made: list[Path]) -> str:
    """Write a mark beside what the job will write; raises ``InputError`` where that fails."""
    try:
        return write_mark(path, made)
    except OSError as error:
        raise InputError(
            f"{name}={path} cannot be written where the job runs ({_reason(error)}); name a folder "
            "that all nodes share and may write"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join((getattr(error, "strerror", None) or str(error)).split())[:300]


def _look_on(node: str, folders: Folders, marks: dict[str, str]) -> "ray.ObjectRef":
    """Start looking on one node; it takes no CPU, so a busy node looks too."""
    there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(_unseen).options(num_cpus=0, scheduling_strategy=there, max_retries=1)
    return task.remote(folders.read, marks)


def _unseen(read: dict[str, str], marks: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The package's version on this node, and why it does not see what options name."""
    unseen = {}
    for name, place in {**read, **marks}.items():
        try:
            if not is_there(place):
                unseen[name] = "it is not there"
        except (OSError, InputError) as error:
            unseen[name] = _reason(error)
    return greatmeta_dist.__version__, unseen


def _require_seen(look: "ray.ObjectRef", where: str, folders: Folders) -> None:
    try:
        version, unseen = ray.get(look, timeout=0)
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
    for name, reason in unseen.items():
        require(
            False,
            f"{name}={paths[name]} is not seen by {where} ({reason}); {_remedy(paths[name])}",
        )


def _remedy(place: str) -> str:
    if is_url(place):
        return (
            "check its name, and that every node has the object store's address and credentials "
            "in its environment"
        )
    return "name a folder that all nodes share"
