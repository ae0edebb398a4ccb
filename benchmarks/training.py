"""How fast are whole trainings: one process, two and four workers, and an earlier commit?

``python -m benchmarks.training [--commit d9985ce] [--ml-100k FOLDER] [--users 32 128] [--rounds 3]
[--seconds 8] [--interactions 40] [--json FILE] [--quick]``. Trains on the store of ``make train``,
and on MovieLens 100K where its folder is given. All programs and groups of a case take turns, so
that they meet the same machine. Each training is stopped when it has been measured for
``--seconds``. Rates are its own users/s: reading, steps and messages, without the first steps and
without validation. Memory is the most that each of its processes had, priors' fit included, added
up. ``--interactions`` is the mean of the store of ``make train``, whose users are long-tailed.
"""

import argparse
import itertools
import statistics
import tempfile
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
from benchmarks.rates import train_for
from greatmeta_dist.config import DataConfig
from greatmeta_dist.display import Display

NO_VALIDATION = "train.valid_every=1000000"
USERS_OPTION = {BEFORE: "train.users_per_step"}
"""By program, where it is another one than today's ``train.users_per_batch``."""
QUICK = {"synthetic": ["data=synthetic", "data.users=300", "data.items=300"]}


@dataclass(frozen=True)
class Group:
    """A program, and how many workers and threads it trains with."""

    program: Program
    workers: int
    threads: int
    is_compiled: bool = True
    """Whether users adapt by compiled code, in programs that have it."""

    @property
    def name(self) -> str:
        program = self.program.name if self.is_compiled else f"{self.program.name} by torch"
        return f"{program}, {self.workers} x {self.threads}"

    def words(self, users: int) -> list[str]:
        """Options of a training of so many users a step."""
        option = USERS_OPTION.get(self.program.name, "train.users_per_batch")
        threads = [f"cluster.threads={self.threads}", f"{option}={users}", NO_VALIDATION]
        form = [] if self.is_compiled else ["cluster.adaptation=torch"]
        workers = [] if self.workers == 1 else [f"cluster.workers={self.workers}"]
        return [*threads, *form, *workers]


@dataclass(frozen=True)
class Measurement:
    """One training."""

    store: str
    users: int
    """A step."""
    group: str
    round: int
    users_per_s: float
    mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commit", default=BEFORE)
    parser.add_argument("--ml-100k", type=Path)
    parser.add_argument("--users", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each training")
    parser.add_argument("--interactions", type=float, default=DataConfig().mean_interactions)
    parser.add_argument("--quick", action="store_true", help="one round, few users, one second")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.users = 1, 1.0, options.users[:1]
    synthetic = ["data=synthetic", f"data.mean_interactions={options.interactions}"]
    sources = QUICK if options.quick else {"synthetic": synthetic}
    if options.ml_100k:
        sources["ml-100k"] = ["data=recbole", f"data.path={options.ml_100k.resolve()}"]
    with tempfile.TemporaryDirectory() as folder:
        work, environ = Path(folder), without_thread_variables()
        before, now = check_out(options.commit, work / "checkout", environ), this_program(environ)
        groups = [
            Group(before, 1, 1), Group(before, 1, 2),
            Group(now, 1, 1, is_compiled=False),
            Group(now, 1, 1), Group(now, 1, 2), Group(now, 2, 1), Group(now, 4, 1),
        ]  # fmt: skip
        for source, program in itertools.product(sources, (before, now)):
            prepare(program, sources[source], work / f"{source}-{program.name}", work / "log")
        measurements = measure(list(sources), groups, work, options)
    rows = summary(measurements, groups)
    show(rows)
    raw = [asdict(measurement) for measurement in measurements]
    write_result(options.json, options, {"rows": rows, "measurements": raw})


def prepare(program: Program, source: list[str], store: Path, log: Path) -> None:
    """Make a store, and fit and read once what every training on it needs."""
    program.run("prepare", *source, f"store={store}", log=log)
    run = store.with_name(f"{store.name}-first")
    program.run("train", f"store={store}", f"run={run}", "train.steps=1", log=log)


def measure(
    sources: list[str], groups: list[Group], work: Path, options: argparse.Namespace
) -> list[Measurement]:
    """All trainings; those of one store and size take turns."""
    turns = list(itertools.product(sources, options.users, range(options.rounds), groups))
    measurements: list[Measurement] = []
    with Display(Console(stderr=True)).bar("training", len(turns), "trainings") as bar:
        for number, (source, users, round_number, group) in enumerate(turns):
            store, run = work / f"{source}-{group.program.name}", work / f"run-{number}"
            rates, mib = train_for(group.program, store, run, options.seconds, *group.words(users))
            rate = statistics.harmonic_mean(rates)
            measurements.append(Measurement(source, users, group.name, round_number, rate, mib))
            bar.update(len(measurements), f"{source}, {group.name}: {rate:.0f} users/s")
    return measurements


def summary(measurements: list[Measurement], groups: list[Group]) -> list[dict[str, Any]]:
    """By store, users a step and group: the median rate, and medians of ratios within a round."""
    rates = {(m.store, m.users, m.group, m.round): m.users_per_s for m in measurements}
    mib = {(m.store, m.users, m.group, m.round): m.mib for m in measurements}
    cases = sorted({(m.store, m.users) for m in measurements}, reverse=True)
    rounds = sorted({m.round for m in measurements})
    before, _, _, alone, *_ = groups
    return [
        {
            "store": store,
            "users": users,
            "group": group.name,
            "users_per_s": statistics.median(rates[store, users, group.name, r] for r in rounds),
            **{
                name: statistics.median(
                    rates[store, users, group.name, r] / rates[store, users, other.name, r]
                    for r in rounds
                )
                for name, other in (("over_before", before), ("over_alone", alone))
            },
            "mib": statistics.median(mib[store, users, group.name, r] for r in rounds),
        }
        for store, users in cases
        for group in groups
    ]


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(
        "store", "users a step", "workers x threads", "users/s", "over before", "over 1 x 1",
        "MiB",
        box=SIMPLE,
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row["store"],
            str(row["users"]),
            row["group"],
            f"{row['users_per_s']:,.0f}",
            f"{row['over_before']:.2f}",
            f"{row['over_alone']:.2f}",
            f"{row['mib']:.0f}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
