"""Who runs units of work: threads of this process, or a Ray cluster."""

from collections.abc import Iterator
from contextlib import contextmanager

from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.data.units import RunUnits, run_in_threads
from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError
from greatmeta_dist.launch.access import prepare_to_join


@contextmanager
def unit_runner(cluster: ClusterConfig, display: Display) -> Iterator[RunUnits]:
    """Run units as ``cluster`` says, while in the block.

    Raises ``InputError`` where Ray is asked for and not installed, or does not answer.
    """
    if cluster.kind == "local":
        yield run_in_threads(None if cluster.workers is None else cluster.most_workers)
        return
    prepare_to_join(cluster)  # before Ray is imported
    try:
        from greatmeta_dist.launch.ray_units import units_on_ray
    except ModuleNotFoundError as error:
        raise no_ray(error) from error
    with units_on_ray(cluster, display) as run_units:
        yield run_units


def model_unit_runner(cluster: ClusterConfig, display: Display) -> RunUnits | None:
    """Runs units that compute with a model: on GPUs, where the cluster has some.

    None is whoever ``unit_runner`` gave, inside of whose block this is called.
    """
    if cluster.kind == "local":
        return None
    from greatmeta_dist.launch.ray_units import gpu_units

    return gpu_units(cluster, display)


def no_ray(error: ModuleNotFoundError) -> InputError:
    """What to do where Ray is not installed."""
    return InputError(
        f"cluster=ray needs Ray, and it is not installed ({error}); "
        "pip install 'ray[train]', or take cluster=local"
    )
