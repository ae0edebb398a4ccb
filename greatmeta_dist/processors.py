"""How many processors this process may use: its affinity, and its container's quota."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_processors() -> int:
    """Processors that this process may run on at once, at least 1.

    ``os.cpu_count`` counts those of the whole machine. A container or a scheduler may have given
    this process fewer, by its affinity or by a quota of processor time.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = _cgroup_quota(CGROUP)
    return max(1, count if quota is None else min(count, math.floor(quota)))


def _cgroup_quota(root: Path) -> float | None:
    """Processors' worth of time that the control group allows (version 2, then 1); None for all."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        allowed = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return None
    return allowed if allowed > 0 else None  # −1 is no quota
