"""``greatmeta train -m``: store → a sweep's folder of runs, side by side, and a table of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.display import Display
from greatmeta_dist.errors import require
from greatmeta_dist.launch.cluster_of_sweep import shared_cluster
from greatmeta_dist.options.checks import verbatim
from greatmeta_dist.sweep.board import Board
from greatmeta_dist.sweep.folder import SweepFolder
from greatmeta_dist.sweep.plan import Plan, plan_sweep
from greatmeta_dist.sweep.processes import run_side_by_side
from greatmeta_dist.sweep.results import Result, describe_best, read_results
from greatmeta_dist.sweep.room import Room
from greatmeta_dist.sweep.sources import Combinations, Search
from greatmeta_dist.sweep.summary import show_summary, write_summary


def train_sweep(words: list[str], display: Display | None = None) -> None:
    """Run what is missing of a sweep: every combination of the words' values, or a search.

    Raises ``InputError``, before anything starts, where any job could not; ``RuntimeError`` where
    some failed; ``KeyboardInterrupt`` where it was stopped.
    """
    display = display or Display()
    run = dict(word.split("=", 1) for word in words)["run"]
    path = verbatim("run", run) or ""
    require("://" not in path, f"run={path} is a URL; a sweep's folder is on a disk: name a path")
    folder = SweepFolder.read(Path(path))
    plan = plan_sweep(folder, words)
    with folder.held(), _room(plan, display) as (room, address, gpus_per_worker):
        plan.folder.write()
        try:
            _run(plan, room, address, gpus_per_worker, display)
        finally:
            results = read_results(plan.folder)
            show_summary(display, plan.folder.path, write_summary(plan.folder, results))
    _raise_failures(plan, results)
    display.say(f"evaluate all of them: greatmeta evaluate run={plan.folder.path}")


def _run(
    plan: Plan, room: Room, address: str | None, gpus_per_worker: float, display: Display
) -> None:
    def on_end(result: Result) -> None:
        best = "" if result.best is None else f"validation {describe_best(result.best)}"
        board.ended(result.status, result.job.name, result.message or best)

    def need_of(cluster: ClusterConfig) -> dict[str, float]:
        return room.need(cluster, gpus_per_worker)

    source = (Search if plan.is_search else Combinations)(plan, need_of, on_end)
    board = Board(display, source.total, source.done)
    display.say(f"{source.total} jobs, of which {source.done} are done; in {plan.folder.path}")
    with board:
        run_side_by_side(source, room, board, address=address)


@contextmanager
def _room(plan: Plan, display: Display) -> Iterator[tuple[Room, str | None, float]]:
    """What the jobs share: room, the cluster's address if there is one, GPUs of each worker."""
    if plan.cluster.kind == "local":
        room = Room.of_this_machine(plan.options.parallel)
        yield room, None, 1.0 if room.gpus else 0.0
        return
    with shared_cluster(plan.cluster, display) as cluster:
        room = Room(cluster.resources, plan.options.parallel)
        yield room, cluster.address, cluster.gpus_per_worker


def _raise_failures(plan: Plan, results: list[Result]) -> None:
    """Raise ``RuntimeError`` where a job of this command failed."""
    names = {job.name for job in plan.jobs} if not plan.is_search else set(plan.folder.jobs)
    failed = [r for r in results if r.job.name in names and r.status == "failed"]
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(names)} jobs failed; the same command tries them again"
        )
