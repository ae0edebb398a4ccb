"""Rules for the greatmeta command that a job runs: the package's own checks, and the cluster's."""

import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import PurePosixPath

from cluster.checks.problem import Problem, Problems
from greatmeta_dist.config import Config
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.options.checks import check_folders, check_words
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.options.names import COMMANDS

PROGRAM = "greatmeta"


def command_problems(
    where: str, command: str, *, shared: set[str] | None, gpus_of_pods: Sequence[float]
) -> Problems:
    """A misspelt option costs a second here, and a queue's wait in the cluster.

    ``shared`` are the paths of volumes that every node mounts; None where they are not known.
    ``gpus_of_pods`` has one number for each worker pod that there may be.
    """
    try:
        name, config = composed(command)
    except InputError as error:
        yield Problem(where, str(error))
        return
    for folder in ("store", "run") if shared is not None else ():
        path = getattr(config, folder)
        if path and not any(PurePosixPath(path).is_relative_to(p) for p in shared or ()):
            yield Problem(
                where,
                f"{folder}={path} is not on a volume that all nodes mount; these are at "
                f"{', '.join(sorted(shared or ())) or 'no path'}",
            )
    if config.cluster.kind != "ray" or config.cluster.address is None:
        yield Problem(
            where,
            "the command would start a Ray of its own inside the head; add cluster=ray "
            "cluster.address=auto",
        )
    if name == "train":
        yield from _size_problems(where, config, gpus_of_pods)


@cache
def composed(command: str) -> tuple[str, Config]:
    """Which command it is, and its config; raises ``InputError`` in one line."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"{command} has quotes that do not close") from error
    require(
        words[:1] == [PROGRAM] and len(words) > 1 and words[1] in COMMANDS,
        f"{command} is no command; expected {PROGRAM} {'|'.join(COMMANDS)} …",
    )
    check_words(words[1], words[2:])
    check_folders(words[1], words[2:])
    return words[1], compose_config(words[2:])


def _size_problems(where: str, config: Config, gpus_of_pods: Sequence[float]) -> Problems:
    cluster = config.cluster
    if any(gpus_of_pods) and cluster.gpus_per_worker is None:
        yield Problem(
            where,
            "cluster.gpus_per_worker is left out; as long as no GPU pod runs, training would take "
            "CPUs. Say cluster.gpus_per_worker=1",
        )
    per_worker = cluster.gpus_per_worker or 0
    room = sum(int(gpus // per_worker) for gpus in gpus_of_pods) if per_worker else None
    if room is not None and cluster.most_workers > room:
        yield Problem(
            where,
            f"{cluster.most_workers} workers with {per_worker:g} GPU each never fit; the pods have "
            f"room for {room}",
        )
