"""What other load on the machine does to a training: alone, beside one and beside two busy loops.

``python -m benchmarks.contention [--commit d9985ce] [--rounds 2] [--seconds 10] [--json FILE]
[--quick]``. Trains as a user does who sets nothing: synthetic data, 32 users a step, neither
workers nor threads chosen. The program of another commit and this one take turns, so that both meet
the same machine. Each training is stopped when it has been measured for ``--seconds``. Rates are
its own users/s, without the first steps. Busy loops run before it starts and until it is stopped.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.checkout import (
    BEFORE,
    Program,
    check_out,
    this_program,
    without_thread_variables,
)
from benchmarks.environment import write_result
from benchmarks.rates import LOG_EVERY, train_for
from greatmeta_dist.display import Display

LOADS = (0, 1, 2)
"""Busy loops."""
BUSY_LOOP = """
import os
parent = os.getppid()
while os.getppid() == parent:  # ends with its parent, however that ends
    for _ in range(1_000_000):
        pass
"""


@dataclass(frozen=True)
class Measurement:
    """One training."""

    program: str
    busy_loops: int
    round: int
    users_per_s: float
    steps: int
    """Measured ones."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commit", default=BEFORE)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each training")
    parser.add_argument("--quick", action="store_true", help="one round, few users, two seconds")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 2.0
    with tempfile.TemporaryDirectory() as folder:
        work, environ = Path(folder), without_thread_variables()
        programs = [check_out(options.commit, work / "checkout", environ), this_program(environ)]
        measurements = measure(programs, work, options)
    rows = summary(measurements, [program.name for program in programs])
    show(rows, options.commit)
    raw = [asdict(measurement) for measurement in measurements]
    write_result(options.json, options, {"rows": rows, "measurements": raw})


def measure(programs: list[Program], work: Path, options: argparse.Namespace) -> list[Measurement]:
    """All trainings, the programs by turns."""
    small = ["data.users=300", "data.items=300"] if options.quick else []
    for program in programs:
        store, log = work / f"store-{program.name}", work / "log"
        program.run("prepare", "data=synthetic", *small, f"store={store}", log=log)
        # Fits what is fitted once, and reads all code and data from disk.
        first_run = work / f"first-{program.name}"
        program.run("train", f"store={store}", f"run={first_run}", "train.steps=1", log=log)
    turns = list(itertools.product(range(options.rounds), LOADS, programs))
    measurements = []
    with Display(Console(stderr=True)).bar("contention", len(turns), "trainings") as bar:
        for number, num_loops, program in turns:
            run = work / f"run-{program.name}-{num_loops}-{number}"
            store = work / f"store-{program.name}"
            with busy_loops(num_loops):
                rates = train_for(program, store, run, options.seconds).users_per_s
            rate, num_steps = statistics.harmonic_mean(rates), len(rates) * LOG_EVERY
            measurements.append(Measurement(program.name, num_loops, number, rate, num_steps))
            detail = f"{program.name} beside {num_loops}: {rate:.0f} users/s"
            bar.update(len(measurements), detail)
    return measurements


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Processes that compute all the time."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY_LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def summary(measurements: list[Measurement], names: list[str]) -> list[dict[str, Any]]:
    """By load and program: medians over rounds, of rates and of ratios within a round."""
    rates = {(m.program, m.busy_loops, m.round): m.users_per_s for m in measurements}
    rounds = sorted({m.round for m in measurements})
    reference = names[0]
    return [
        {
            "program": name,
            "busy_loops": load,
            "users_per_s": statistics.median(rates[name, load, r] for r in rounds),
            "over_own_alone": statistics.median(
                rates[name, load, r] / rates[name, 0, r] for r in rounds
            ),
            "over_reference": statistics.median(
                rates[name, load, r] / rates[reference, load, r] for r in rounds
            ),
        }
        for load in LOADS
        for name in names
    ]


def show(rows: list[dict[str, Any]], commit: str) -> None:
    """Print the table."""
    columns = ("busy loops", "program", "users/s", "of its own alone", f"of {commit}'s")
    table = Table(*columns, box=SIMPLE)
    for row in rows:
        table.add_row(
            str(row["busy_loops"]),
            row["program"],
            f"{row['users_per_s']:.0f}",
            f"{row['over_own_alone']:.2f}",
            f"{row['over_reference']:.2f}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
