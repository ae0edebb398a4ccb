"""Connecting to a Ray cluster, or starting one here.

Imported before anything of Ray: Ray reads its settings when it is imported.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Ray shall report no usage, leave workers in the directory they were started in, and not warn where
# there are no GPUs.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# scaling.py looks for nodes that are to be taken away; Ray Train would start a process for it.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

import ray

from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.display import Display
from greatmeta_dist.launch.access import address_to_join, no_answer
from greatmeta_dist.processors import available_processors

OBJECT_STORE_BYTES = 200 << 20
"""Of a local Ray; nothing large goes through it."""


@contextmanager
def connected(cluster: ClusterConfig, display: Display) -> Iterator[None]:
    """Connect to ``cluster.address``, or to a local Ray that ends with the block.

    In a job, no address means the job's own cluster. Where this process is connected already, that
    connection is used, and stays. ``prepare_to_join`` was called before Ray was imported.
    """
    if ray.is_initialized():
        yield
        return
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address = address_to_join(cluster)
    try:
        if address is not None:
            ray.init(address=address, **common)
        else:
            display.say("starting a local Ray")
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            ray.init(
                address="local",
                num_cpus=max(available_processors(), cluster.fewest_workers * cluster.threads),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                **common,
            )
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        raise no_answer(address, str(error).splitlines()[0]) from error
    try:
        yield
    finally:
        ray.shutdown()


def gpus_per_worker(cluster: ClusterConfig) -> float:
    """GPUs of each worker: as asked for, or one where the cluster has any."""
    if cluster.gpus_per_worker is not None:
        return cluster.gpus_per_worker
    return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0


def is_own_ray() -> bool:
    """Whether this process started the Ray that it is connected to: that one never grows."""
    node = ray._private.worker._global_node
    return node is not None and node.head
