"""A program run as a child: seconds, processor seconds, peak memory.

The child is started by this file run as a script, because Linux counts the memory of whoever starts
a process into the process's own peak, and a benchmark that has imported torch holds hundreds of
MiB. So the script imports only what is small.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

POLL_S = 0.05


@dataclass(frozen=True)
class Cost:
    """What a run took, and why it did not end where it did not."""

    seconds: float
    processor_seconds: float
    peak_mib: float
    failure: str | None = None


def measure(
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    cwd: Path,
    log: Path,
    limit_s: float,
    limit_mib: float,
) -> Cost:
    """Run a command to its end, or until it passes a limit of time or of resident memory.

    What it prints is added to ``log``.
    """
    words = [sys.executable, "-S", "-P", __file__, str(log), str(limit_s), str(limit_mib)]
    answer = subprocess.run(
        [*words, *command], cwd=cwd, env=dict(environ), check=True, capture_output=True
    )
    return Cost(**json.loads(answer.stdout))


def _main(log: str, limit_s: str, limit_mib: str, *command: str) -> None:
    start, failure = time.monotonic(), None
    with Path(log).open("ab") as out:
        child = subprocess.Popen(command, stdout=out, stderr=out)
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            break
        if failure is None:
            failure = _passed_limit(child.pid, start, float(limit_s), float(limit_mib))
            if failure is not None:
                child.kill()
        time.sleep(POLL_S)
    seconds = time.monotonic() - start
    code = child.returncode = os.waitstatus_to_exitcode(status)
    if code and failure is None:
        lines = Path(log).read_text(errors="replace").strip().splitlines()
        failure = f"ended with {code}: {''.join(lines[-1:])[:200]}"
    cost = Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, failure)
    print(json.dumps(asdict(cost)))


def _passed_limit(pid: int, start: float, limit_s: float, limit_mib: float) -> str | None:
    if time.monotonic() - start > limit_s:
        return f"stopped after {limit_s:g} s"
    if _resident_mib(pid) > limit_mib:
        return f"stopped at {limit_mib / 1024:.1f} GiB"
    return None


def _resident_mib(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0  # it has just ended
    return pages * resource.getpagesize() / 2**20


def available_mib() -> float:
    """Memory that programs may still take."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(x.split()[1]) / 1024 for x in lines if x.startswith("MemAvailable"))


if __name__ == "__main__":
    _main(*sys.argv[1:])
