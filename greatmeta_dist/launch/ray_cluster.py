"""Connecting to a Ray cluster, or starting one here.

Imported before anything of Ray: Ray reads its settings when it is imported.
"""

import os
import signal
import threading
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
from greatmeta_dist.errors import InputError
from greatmeta_dist.launch.access import address_to_join, no_answer
from greatmeta_dist.processors import available_processors

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
OBJECT_STORE_BYTES = 200 << 20
"""Of a local Ray; nothing large goes through it."""
MANY_PROCESSES = "worker processes have been started on node"
"""Of a warning to whoever has a node with few CPUs and a few trainings, whose actors take none."""


@contextmanager
def connected(cluster: ClusterConfig, display: Display) -> Iterator[None]:
    """Connect to ``cluster.address``, or to a local Ray that ends with the block.

    In a job, no address means the job's own cluster. Where this process is connected already, that
    connection is used, and stays. ``prepare_to_join`` was called before Ray was imported. Raises
    ``InputError`` where a cluster cannot be joined, and ``RuntimeError`` where none can be started.
    """
    if ray.is_initialized():
        yield
        return
    address = address_to_join(cluster)
    with _fewer_reports():
        try:
            with _sigterm_kept():
                if address is not None:
                    _join(address)
                else:
                    display.say("starting a local Ray")
                    _start(cluster)
            yield
        finally:
            ray.shutdown()


@contextmanager
def _fewer_reports() -> Iterator[None]:
    """Show what a cluster reports to all drivers, such as want of memory, but for one warning.

    Ray has no setting for that, so its printer is another one while in the block.
    """
    worker = ray._private.worker
    show_all = worker.print_to_stdstream

    def show(data: dict[str, Any], ignore_prefix: bool) -> None:
        if not any(MANY_PROCESSES in line for line in data["lines"]):
            show_all(data, ignore_prefix)

    worker.print_to_stdstream = show
    try:
        yield
    finally:
        worker.print_to_stdstream = show_all


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Have SIGTERM do after the block what it did before, and in it what Ctrl-C does.

    Ray sets a handler that ends the process with code 15 and says nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGTERM, handler)


def _join(address: str) -> None:
    try:
        ray.init(address=address, **QUIET)
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        raise no_answer(address, str(error).splitlines()[0]) from error
    except Exception as error:  # Ray has no kind of its own for what may be wrong
        raise InputError(
            f"the Ray cluster at cluster.address={address} cannot be joined from here "
            f"({_reason(error)}); run the command where one of its nodes is, with the Ray and the "
            "Python that the cluster has"
        ) from error


def _start(cluster: ClusterConfig) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        ray.init(
            address="local",
            num_cpus=max(available_processors(), cluster.fewest_workers * cluster.threads),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            **QUIET,
        )
    except Exception as error:  # Ray has no kind of its own for a start that fails
        raise RuntimeError(
            f"Ray did not start on this machine ({_reason(error)}); its logs are in "
            f"{os.environ.get('RAY_TMPDIR') or '/tmp'}/ray/session_latest/logs; try again where "
            "the machine is less busy and has disk and memory left, or take cluster=local"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def gpus_per_worker(cluster: ClusterConfig) -> float:
    """GPUs of each worker: as asked for, or one where the cluster has any."""
    if cluster.gpus_per_worker is not None:
        return cluster.gpus_per_worker
    return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0


def is_own_ray() -> bool:
    """Whether this process started the Ray that it is connected to: that one never grows."""
    node = ray._private.worker._global_node
    return node is not None and node.head
