"""The device a worker computes on, and how torch is set up on it."""

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from greatmeta_dist.config import ClusterConfig

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""As malloc.h has them."""
DEFAULT_MMAP_MAX = 65_536
HEAP_ROOM = 512 << 20
"""Bytes. They take no memory before they are written."""
ALLOCATIONS_PER_COLLECTION = 100_000
"""Objects made, less those freed, before Python looks for cycles; its own default is 700."""


def local_device() -> torch.device:
    """This worker's GPU, by its number on the machine, or the CPU where there is none.

    Also the CPU where the workers' process group, which is up already, communicates by gloo.
    """
    is_on_host = dist.is_initialized() and dist.get_backend() == "gloo"
    if is_on_host or not torch.cuda.is_available():
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def configure_torch(cluster: ClusterConfig) -> None:
    """Set threads, the precision of matrix products and the allocator of this process.

    One thread unless asked for more. A step is thousands of small operations, and torch's threads
    wait for one another by spinning at the end of each. With two threads on two cores a training
    was a fifth faster alone, and four to twenty times slower beside one other busy process, which
    takes the core that a thread spins for. More workers, not more threads, use more cores.
    """
    torch.set_num_threads(cluster.threads)
    torch.backends.cuda.matmul.allow_tf32 = cluster.precision != "float32"
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Have the allocator keep what is freed, because the next step's tensors are as large.

    By default glibc gives large blocks back to the system, which fills them with zeros anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; others have none
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that older ones allow


def make_heap_room() -> None:
    """Before the first step: room in the heap for blocks above the allocator's threshold.

    glibc maps such a block anew each time it is asked for, unless the heap has room for it. Sums of
    64 lanes' rows are such blocks: clearing their pages was a third of a step.
    """
    libc = ctypes.CDLL(None)
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is None:
        return
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.restype, libc.free.argtypes = None, (ctypes.c_void_p,)
    mallopt(M_MMAP_MAX, 0)
    libc.free(libc.malloc(HEAP_ROOM))
    mallopt(M_MMAP_MAX, DEFAULT_MMAP_MAX)


@contextmanager
def rare_garbage_collection() -> Iterator[None]:
    """Collect garbage rarely while in the block.

    A step makes some ten thousand small objects and frees them by reference counts. Python's
    collector, which looks for cycles, starts by the number made, finds nothing, and took a fifth of
    the time. What is alive when the block begins is not looked at again.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS_PER_COLLECTION, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
