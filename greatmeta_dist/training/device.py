"""The device a worker computes on, and how torch is set up on it."""

import ctypes
import os

import torch
import torch.distributed as dist

from greatmeta_dist.config import ClusterConfig

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""As malloc.h has them."""


def local_device() -> torch.device:
    """This worker's GPU, by its number on the machine, or the CPU.

    The CPU, too, where a group of workers is up that communicates through it.
    """
    is_on_host = dist.is_initialized() and dist.get_backend() == "gloo"
    if is_on_host or not torch.cuda.is_available():
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def configure_torch(cluster: ClusterConfig, *, is_in_group: bool) -> None:
    """Set threads, the precision of matrix products and the allocator of this process."""
    if cluster.threads is not None:
        torch.set_num_threads(cluster.threads)
    elif is_in_group and cluster.workers is not None:
        torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = cluster.precision != "float32"
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Have the allocator keep what is freed, for the next step's tensors are as large.

    Else glibc gives large blocks back to the system, which must fill them with zeros anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; others have none
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that older ones allow
