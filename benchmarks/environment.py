"""What a result must say of where it comes from, and how it measures memory."""

import argparse
import ctypes
import gc
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
"""The checkout that this benchmark stands in."""
PACKAGES = ("torch", "numpy", "polars", "pyarrow")


def write_result(path: Path | None, options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Write a benchmark's JSON: hardware and versions, the options, and what was measured.

    Nothing is written where ``path`` is None, as without ``--json``.
    """
    if path is None:
        return
    asked = {name: _as_json(value) for name, value in vars(options).items()}
    whole = {"environment": environment(), "options": asked, **results}
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False))


def environment() -> dict[str, Any]:
    """Hardware and versions."""
    has_gpu = torch.cuda.is_available()
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if has_gpu else None,
        "commit": commit(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _as_json(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_as_json(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def commit() -> str | None:
    """The checkout's commit, with a + where files differ from it; None outside a repository."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None


class PeakMemory:
    """Working memory of a block: its peak above what was held before, in MiB.

    On a GPU it is what torch allocates. Elsewhere it is resident memory, whose high-water mark
    Linux can reset.
    """

    mib: float

    def __init__(self, device: torch.device):
        self.device = device

    def __enter__(self) -> "PeakMemory":
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated() / 2**20
        else:
            # Memory that is freed but not given back would hide the block's own.
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
            self._before = _status_mib("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**20
        else:
            peak = _status_mib("VmHWM")
        self.mib = peak - self._before


def _status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))
