"""Options of who computes."""

from dataclasses import dataclass
from typing import Any

from greatmeta_dist.config.checks import at_least, one_of
from greatmeta_dist.errors import require


@dataclass
class ClusterConfig:
    """Who computes."""

    kind: str = "local"
    """``local``: processes on this machine, without Ray. ``ray``: workers of a Ray cluster."""
    workers: Any = None
    """Number of workers, or with Ray ``[fewest,most]``, between which it follows what the cluster
    has; a power of two. None: this process alone, or one Ray worker."""
    address: str | None = None
    """ray: address of a running cluster to join (``auto``: the one on this machine); None starts
    one here."""
    gpus_per_worker: float | None = None
    """ray: GPUs of a worker; None is 1 where the cluster has any."""
    reduction: str = "tree"
    """How gradients of A are added over workers: along a ``tree``, the same bits with any number of
    workers, or ``fast``, as the library likes."""
    threads: int | None = None
    """torch threads of a worker; None leaves torch's choice, and is 1 with ``cluster.workers``."""
    precision: str = "float32"
    """Matrix products in ``float32``, in ``tf32`` (a GPU's), or, inside the model, in ``bf16``."""

    def __post_init__(self) -> None:
        one_of("cluster.kind", self.kind, ("local", "ray"))
        one_of("cluster.precision", self.precision, ("float32", "tf32", "bf16"))
        one_of("cluster.reduction", self.reduction, ("tree", "fast"))
        if self.threads is not None:
            at_least("cluster.threads", self.threads, 1)
        if self.gpus_per_worker is not None:
            require(
                self.gpus_per_worker == 0 or self.gpus_per_worker >= 1,
                f"cluster.gpus_per_worker is {self.gpus_per_worker:g}; workers cannot share a GPU: "
                "take 1 or more, or 0 for CPUs",
            )
        given = list(self.workers) if isinstance(self.workers, (list, tuple)) else [self.workers]
        require(
            self.workers is None
            or (
                len(given) in (1, 2)
                and all(isinstance(n, int) and n >= 1 and n & (n - 1) == 0 for n in given)
                and given == sorted(given)
            ),
            f"cluster.workers is {self.workers}; expected a power of two, or [fewest,most] of them",
        )
        require(
            len(given) == 1 or self.kind == "ray",
            f"cluster.workers is {self.workers}, a range, which needs cluster=ray",
        )

    @property
    def most_workers(self) -> int:
        """The largest group there may be."""
        if self.workers is None:
            return 1
        return int(self.workers if isinstance(self.workers, int) else self.workers[-1])
