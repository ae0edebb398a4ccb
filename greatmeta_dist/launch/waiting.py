"""Whether a cluster has room for workers, and how long to wait until it has."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from greatmeta_dist.launch.ray_cluster import gpus_per_worker, is_own_ray, ray  # isort: split

from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.display import Display
from greatmeta_dist.errors import require


@dataclass(frozen=True)
class Need:
    """So many workers, and what each of them takes of one node."""

    workers: int
    each: Mapping[str, float]
    """By resource: CPU, GPU."""

    def lacking(self) -> str | None:
        """What the cluster lacks for it now, in words; None where it lacks nothing."""
        present = ray.cluster_resources()
        for kind, per_worker in self.each.items():
            total = per_worker * self.workers
            if present.get(kind, 0) < total:
                return f"{self._needs(kind, total)}, and it has {present.get(kind, 0):g}"
        if self._num_fitting() < self.workers:
            each = " and ".join(f"{n:g} {kind}" for kind, n in self.each.items())
            return (
                f"{self.workers} workers need {each} each on one node, and its nodes have room "
                f"for {self._num_fitting()}"
            )
        return None

    def held_by_others(self) -> str | None:
        """What the cluster has, and others hold it; None where there is enough of all.

        Asked for a group of workers, which holds all it needs from the moment that it is placed.
        """
        groups = ray.util.placement_group_table().values()
        if all(group["state"] != "PENDING" for group in groups):
            return None
        free = ray.available_resources()
        for kind, per_worker in self.each.items():
            total = per_worker * self.workers
            if free.get(kind, 0) < total:
                return f"{self._needs(kind, total)}, and it has {free.get(kind, 0):g} free"
        return None

    def lacking_for_ever(self) -> str | None:
        """What the cluster lacks and cannot get, as far as it says; None where nothing.

        A cluster that says nothing of its growth does not grow by itself.
        """
        lack = self.lacking()
        largest = ray._private.state.state.get_max_resources_from_cluster_config()
        if lack is None or largest is None:
            return lack
        for kind, per_worker in self.each.items():
            total = per_worker * self.workers
            if largest.get(kind, 0) < total:
                return (
                    f"{self._needs(kind, total)}, and it grows to {largest.get(kind, 0):g} at most"
                )
        return None

    def _needs(self, kind: str, total: float) -> str:
        workers = "1 worker needs" if self.workers == 1 else f"{self.workers} workers need"
        return f"{workers} {total:g} {kind}"

    def _num_fitting(self) -> int:
        """Workers that fit into the nodes there are, none of them shared out over two."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        kinds = [(kind, n) for kind, n in self.each.items() if n > 0]
        if not kinds:
            return self.workers
        return sum(min(int(node.get(kind, 0) // n) for kind, n in kinds) for node in nodes)


def needed(cluster: ClusterConfig) -> Need:
    """The fewest workers that a command may work with, and what each of them takes."""
    gpus = gpus_per_worker(cluster)
    return Need(
        cluster.fewest_workers, {"CPU": float(cluster.threads)} | ({"GPU": gpus} if gpus else {})
    )


def require_possible(need: Need) -> None:
    """Raise ``InputError`` where a Ray of this process's own lacks something: it never grows."""
    lack = need.lacking() if is_own_ray() else None
    require(
        lack is None,
        f"the Ray on this machine can never have that: {lack}; ask for less, or name a larger "
        "cluster with cluster.address",
    )


class Waiting:
    """Says what work waits for, once, and ends the waiting when it takes too long."""

    def __init__(self, need: Need, wait_s: float, display: Display, *, is_group: bool = False):
        self._need, self._wait_s, self._display = need, wait_s, display
        self._is_group = is_group
        self._since: float | None = None
        self._said: str | None = None

    def look(self) -> None:
        """Called now and then while nothing runs; raises ``RuntimeError`` after ``wait_s``."""
        lack = self._need.lacking()
        if lack is None and self._is_group:
            lack = self._need.held_by_others()
        if lack is None:
            self.over()
            return
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if lack != self._said:
            self._said = lack
            self._display.say(f"waiting for the cluster to grow or to be free: {lack}")
        if now - self._since >= self._wait_s:
            raise RuntimeError(
                f"waited {self._wait_s:g} s for the cluster (cluster.wait_s): {lack}; ask for "
                "less, let the cluster grow, or wait longer"
            )

    def over(self) -> None:
        """Called when something runs again."""
        self._since, self._said = None, None
