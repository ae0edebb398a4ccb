"""Seconds of calls, taken in turns."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def median_seconds(
    calls: list[Callable[[], Any]], device: torch.device, *, rounds: int
) -> list[float]:
    """Median seconds of each call, taken in turns after a round that does not count."""
    seconds: list[list[float]] = [[] for _ in calls]
    for round_number in range(rounds + 1):
        for k, call in enumerate(calls):
            _synchronise(device)
            start = time.perf_counter()
            call()
            _synchronise(device)
            if round_number:
                seconds[k].append(time.perf_counter() - start)
    return [statistics.median(s) for s in seconds]


def matrix_rate(device: torch.device) -> float:
    """GFLOP/s of a large float32 matrix product."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device)
    (seconds,) = median_seconds([lambda: a @ a], device, rounds=5)
    return 2 * size**3 / seconds / 1e9


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
