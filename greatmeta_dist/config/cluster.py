"""Options of the machines that prepare and train."""

from dataclasses import dataclass
from typing import Any

from greatmeta_dist.config.checks import at_least, check_choices, choice, in_range
from greatmeta_dist.errors import require


@dataclass
class ClusterConfig:
    """The workers, and how they compute together."""

    kind: str = choice("local", ("local", "ray"))
    """Where workers run. ``local``: on this machine, without Ray. ``ray``: on a Ray cluster."""
    workers: Any = None
    """Number of workers: a power of two. With ``cluster=ray`` it may be a range
    ``[fewest,most]``; the group then grows and shrinks with the cluster. ``train``: null is this
    process alone, or one Ray worker. ``prepare``: parts of the log that are worked on at a time;
    null is one for each processor, here at most four, since each is in memory."""
    address: str | None = None
    """ray: address of a running cluster to join, HOST:PORT. ``auto`` is the one of this machine.
    null starts a cluster here, which ends with the command; in a submitted job it is the job's own
    cluster. ``submit`` and ``jobs``: where the cluster's Jobs API is, http://HOST:8265; null is
    what RAY_API_SERVER_ADDRESS says."""
    gpus_per_worker: float | None = None
    """ray: GPUs of each worker. null is 1 where the cluster has GPUs, and 0 elsewhere."""
    wait_s: float = 600.0
    """ray: seconds to wait where the cluster lacks what is asked for, or others hold it. Then the
    command ends."""
    growth_interval_s: float = 60.0
    """ray, for a range of workers: seconds for which a group trains at least before it makes way
    for a larger one. Each change costs what the start of the workers takes."""
    reduction: str = choice("tree", ("tree", "fast"))
    """How workers add their gradients. ``tree``: in a fixed order, so that any number of workers
    gives the same bits. ``fast``: by a plain all-reduce, which does not promise this."""
    threads: int = 1
    """torch threads of each worker. More workers use more cores better than more threads do, and
    threads are slow beside other busy processes."""
    adaptation: str = choice("native", ("native", "torch"))
    """How users adapt on a CPU. ``native``: by compiled code, where all workers have it. ``torch``:
    by torch's operations, which takes longer. Both agree but for rounding."""
    precision: str = choice("float32", ("float32", "tf32", "bf16"))
    """Precision of matrix products. ``tf32`` is faster than ``float32`` on GPUs, and rounds more.
    ``bf16`` computes the model, and only the model, in bfloat16."""

    def __post_init__(self) -> None:
        check_choices("cluster", self)
        at_least("cluster.wait_s", self.wait_s, 0)
        at_least("cluster.growth_interval_s", self.growth_interval_s, 0)
        at_least("cluster.threads", self.threads, 1)
        in_range("cluster.threads", self.threads, 1, 4096)
        if self.gpus_per_worker is not None:
            require(
                self.gpus_per_worker == 0 or self.gpus_per_worker >= 1,
                f"cluster.gpus_per_worker is {self.gpus_per_worker:g}; workers cannot share a GPU: "
                "take 1 or more, or 0 for CPUs",
            )
        self._check_workers()

    def _check_workers(self) -> None:
        is_range = isinstance(self.workers, (list, tuple))
        counts = list(self.workers) if is_range else [self.workers]
        require(
            self.workers is None
            or (
                len(counts) in (1, 2)
                and all(isinstance(n, int) and n >= 1 and n & (n - 1) == 0 for n in counts)
                and counts == sorted(counts)
            ),
            f"cluster.workers is {self.workers}; expected a power of two, or [fewest,most] of them",
        )
        require(
            len(counts) == 1 or self.kind == "ray",
            f"cluster.workers is {self.workers}, a range, which needs cluster=ray",
        )

    @property
    def most_workers(self) -> int:
        """The largest group there may be."""
        if self.workers is None:
            return 1
        return int(self.workers if isinstance(self.workers, int) else self.workers[-1])

    @property
    def fewest_workers(self) -> int:
        """The smallest group that may train."""
        return (
            int(self.workers[0]) if isinstance(self.workers, (list, tuple)) else self.most_workers
        )
