"""How many trainings run side by side: as many as the processors, GPUs or the cluster hold."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.processors import available_processors


@dataclass
class Room:
    """Resources that trainings share."""

    capacity: Mapping[str, float]
    """By kind, as Ray calls them: CPU, GPU."""
    limit: int | None = None
    """Trainings at a time, whatever they need; None is as many as fit."""
    gpus: list[str] = field(default_factory=list)
    """Names of this machine's GPUs, which are dealt out; empty on a cluster, which does that."""
    taken: list[dict[str, float]] = field(default_factory=list)
    """What each training that runs needs."""
    users_of_gpu: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of_this_machine(cls, limit: int | None) -> "Room":
        """The processors and GPUs that this process may use."""
        gpus = _visible_gpus()
        capacity = {"CPU": float(available_processors())}
        return cls(capacity | ({"GPU": float(len(gpus))} if gpus else {}), limit, gpus)

    def need(self, cluster: ClusterConfig, gpus_per_worker: float) -> dict[str, float]:
        """What a training of these options takes."""
        workers = cluster.most_workers
        gpus = {"GPU": workers * gpus_per_worker} if gpus_per_worker else {}
        return {"CPU": float(workers * cluster.threads), **gpus}

    def holds(self, need: Mapping[str, float]) -> bool:
        """Whether one more training fits now. One always does: it may wait, or share, alone."""
        if not self.taken:
            return True
        if self.limit is not None:
            return len(self.taken) < self.limit
        total: Counter[str] = Counter()
        for one in (*self.taken, need):
            total.update(one)
        return all(total[kind] <= self.capacity.get(kind, 0) for kind in need)

    def take(self, need: dict[str, float]) -> list[str]:
        """Note that a training starts; the GPUs that it gets, those that the fewest others use."""
        self.taken.append(need)
        by_use = sorted(self.gpus, key=lambda gpu: self.users_of_gpu[gpu])
        dealt = by_use[: int(need.get("GPU", 0))]
        self.users_of_gpu.update(dealt)
        return dealt

    def leave(self, need: dict[str, float], gpus: list[str]) -> None:
        """Note that a training has ended."""
        self.taken.remove(need)
        self.users_of_gpu.subtract(gpus)


def _visible_gpus() -> list[str]:
    """The names by which CUDA_VISIBLE_DEVICES calls the GPUs that this process sees."""
    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (named or [str(k) for k in range(count)])[:count]
