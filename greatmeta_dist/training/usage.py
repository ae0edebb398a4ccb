"""What the workers take of their machines: memory, processors, GPUs."""

import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

STATM = Path("/proc/self/statm")
MIB = 1 << 20


@dataclass(frozen=True)
class Usage:
    """What one worker takes."""

    memory_mib: float
    processors: float
    """Busy ones, on average since the last look."""
    gpu_memory_mib: float | None = None
    """What tensors take; None without a GPU, as all below."""
    gpu_peak_memory_mib: float | None = None
    gpu_busy_share: float | None = None
    """None also where nobody can tell."""


class UsageMeter:
    """Looks at what this process takes."""

    def __init__(self, device: torch.device):
        self._device = device
        self._clocks = time.monotonic(), time.process_time()

    def look(self) -> Usage:
        """What it takes now, and since the last look."""
        before, self._clocks = self._clocks, (time.monotonic(), time.process_time())
        seconds, processor_seconds = (b - a for a, b in zip(before, self._clocks, strict=True))
        usage = memory_mib(), processor_seconds / max(seconds, 1e-9)
        if self._device.type != "cuda":
            return Usage(*usage)
        return Usage(
            *usage,
            torch.cuda.memory_allocated(self._device) / MIB,
            torch.cuda.max_memory_allocated(self._device) / MIB,
            _gpu_busy_share(self._device),
        )


def usage_scalars(workers: Sequence[Usage]) -> dict[str, float]:
    """TensorBoard's ``system/`` numbers of all workers together."""
    memory = [worker.memory_mib for worker in workers]
    scalars = {
        "system/workers": len(workers),
        "system/memory_mib/all": sum(memory),
        "system/memory_mib/largest": max(memory),
        "system/processors": sum(worker.processors for worker in workers),
    }
    gpu = [w.gpu_memory_mib for w in workers if w.gpu_memory_mib is not None]
    peak = [w.gpu_peak_memory_mib for w in workers if w.gpu_peak_memory_mib is not None]
    busy = [w.gpu_busy_share for w in workers if w.gpu_busy_share is not None]
    if gpu:
        scalars |= {"system/gpu_memory_mib": max(gpu), "system/gpu_peak_memory_mib": max(peak)}
    if busy:
        scalars["system/gpu_busy_share"] = sum(busy) / len(busy)
    return scalars


def memory_mib() -> float:
    """Resident memory of this process; its peak where the system does not tell."""
    try:
        num_pages = int(STATM.read_text().split()[1])
    except OSError:
        return peak_memory_mib()
    return num_pages * os.sysconf("SC_PAGE_SIZE") / MIB


def peak_memory_mib() -> float:
    """Peak resident memory of this process; Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _gpu_busy_share(device: torch.device) -> float | None:
    try:
        return torch.cuda.utilization(device) / 100
    except Exception:  # the driver's library is missing, or does not answer: a curve less
        return None
