"""The cluster that a sweep's trainings share: what it holds, and how their processes join it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.display import Display, Silent
from greatmeta_dist.launch.access import prepare_to_join
from greatmeta_dist.launch.units import no_ray


@dataclass(frozen=True)
class SharedCluster:
    """A Ray cluster that this process is connected to."""

    address: str
    """Where other processes of this machine join it."""
    resources: Mapping[str, float]
    """CPUs and GPUs that it has now."""
    gpus_per_worker: float


@contextmanager
def shared_cluster(cluster: ClusterConfig, display: Display) -> Iterator[SharedCluster]:
    """Connect to the cluster of ``cluster=ray``, or start one here, for the time of the block.

    Raises ``InputError`` where Ray is not installed, or does not answer.
    """
    prepare_to_join(cluster)  # before Ray is imported
    try:
        from greatmeta_dist.launch.ray_cluster import connected, gpus_per_worker, ray
    except ModuleNotFoundError as error:
        raise no_ray(error) from error
    with connected(cluster, display):
        address = ray.get_runtime_context().gcs_address
        yield SharedCluster(address, ray.cluster_resources(), gpus_per_worker(cluster))


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Be connected to a sweep's cluster while in the block; None is no cluster."""
    if address is None:
        yield
        return
    cluster = replace(ClusterConfig(), kind="ray", address=address)
    prepare_to_join(cluster)  # before Ray is imported
    from greatmeta_dist.launch.ray_cluster import connected

    with connected(cluster, Silent()):
        yield
