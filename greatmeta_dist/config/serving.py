"""Options of ``greatmeta serve``, and of the Ray Serve application in a deployment's config."""

from dataclasses import dataclass

from greatmeta_dist.config.checks import at_least, in_range
from greatmeta_dist.errors import require


@dataclass
class ServeConfig:
    """A service that recommends over HTTP."""

    host: str = "127.0.0.1"
    """Address to listen at. ``0.0.0.0`` is every address of this machine. Whoever reaches it may
    ask: there is no login, so let a proxy stand before it."""
    port: int = 8000
    """Port to listen at."""
    replicas: int = 1
    """Copies of the model, each a process of its own, that share the requests."""
    threads: int = 1
    """torch threads of each replica. More replicas use more cores better than more threads do."""
    gpus_per_replica: float | None = None
    """GPUs of each replica; several may share one, as with 0.5. null is 1 where there are GPUs, and
    0 elsewhere."""
    max_batch: int = 16
    """Requests that a replica answers at once, at most. Those that wait together are answered
    together, which takes less time than one by one. A small number keeps answers quick under
    load, a large one answers more of them."""
    batch_wait_ms: float = 0.0
    """How long a request waits for others where a replica is idle. Those that come while it is busy
    wait for it, and are answered together, whatever this is."""
    max_queued: int = 200
    """Requests that wait at each replica, at most; as many more wait before all replicas. Further
    ones are refused at once, with status 503."""
    max_k: int = 1000
    """The most items that a request may ask for."""
    max_body_kib: int = 1024
    """KiB that a request may have."""

    def __post_init__(self) -> None:
        require(bool(self.host), "serve.host is empty; expected an address such as 127.0.0.1")
        in_range("serve.port", self.port, 1, 65535)
        in_range("serve.batch_wait_ms", self.batch_wait_ms, 0, 60_000)
        for name in ("replicas", "threads", "max_batch", "max_queued", "max_k", "max_body_kib"):
            at_least(f"serve.{name}", getattr(self, name), 1)
        if self.gpus_per_replica is not None:
            require(
                self.gpus_per_replica >= 0,
                f"serve.gpus_per_replica is {self.gpus_per_replica:g}; expected 0 or more",
            )
