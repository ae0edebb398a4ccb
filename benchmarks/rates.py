"""Users per second and memory of a whole training, measured for a while and then stopped."""

import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.checkout import Program, kill_group
from benchmarks.unchanged.compare import read_scalar

LOG_EVERY = 10
"""Steps between measured rates: half the default, because a training beside busy loops may hardly
move."""
WARM_UP_STEPS = 10
MAX_SECONDS = 60.0
"""A training is stopped after this long, however few steps it took."""
STEPS = 1_000_000
"""More than any training takes before it is stopped."""


class Rates(NamedTuple):
    """What was measured of a training."""

    users_per_s: list[float]
    """One for every ``LOG_EVERY`` steps."""
    mib: float
    """The most memory that each of its processes ever had, added up."""


def train_for(program: Program, store: Path, run: Path, seconds: float, *words: str) -> Rates:
    """Rates of a training that is stopped after so long.

    ``words`` are further options. The first steps are left out. Raises ``RuntimeError`` where it
    ends by itself or never reaches its measured steps.
    """
    log = run.with_suffix(".log")
    common = [
        f"store={store}",
        f"run={run}",
        f"train.steps={STEPS}",
        f"train.log_every={LOG_EVERY}",
    ]
    process = program.start("train", *common, *words, log=log)
    try:
        _wait_until_measured(process, run, log, seconds)
        mib = _peak_mib(process.pid)
        process.send_signal(signal.SIGTERM)
        # It stops after a step, and writes its records, now undisturbed.
        process.wait(MAX_SECONDS)
    except BaseException:
        kill_group(process)
        raise
    rates = [rate for step, rate in read_scalar(run, "perf/users_per_s") if step > WARM_UP_STEPS]
    if not rates:
        raise RuntimeError(f"{program.name} took too few steps: {log.read_text()[-2000:]}")
    return Rates(rates, mib)


def _peak_mib(session: int) -> float:
    """The most memory that each process of a session ever had, added up."""
    total = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # Fields of ``stat`` behind the command's name, which may hold spaces.
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                status = (folder / "status").read_text()
                total += sum(map(int, re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)))
    return total / 1024


def _wait_until_measured(
    process: subprocess.Popen[bytes], run: Path, log: Path, seconds: float
) -> None:
    """Until the training has taken steps for so long, and at least some measured ones."""
    start: float | None = None
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"the training ended by itself: {log.read_text()[-2000:]}")
        now = time.monotonic()
        if start is None and (run / "tensorboard").exists():
            start = now
        if start is not None:
            is_long_enough = now > start + seconds and _last_step(log) > WARM_UP_STEPS
            if is_long_enough or now > start + MAX_SECONDS:
                return
        time.sleep(0.1)


def _last_step(log: Path) -> int:
    """The last step that a training has printed; it does every few seconds."""
    steps = re.findall(r"^train: (\d+)/", log.read_text(), re.MULTILINE)
    return int(steps[-1]) if steps else 0
