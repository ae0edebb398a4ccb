"""Does a refactor change nothing? The program of another commit and this one, side by side.

``python -m benchmarks.unchanged [--commit d9985ce] [--ml-100k FOLDER] [--workers 1 2]
[--steps 100] [--json FILE] [--quick]``. Both prepare the same data, train, and evaluate. The
checkpoints' tensors, the losses of every step and the adapted RMSE are compared, in two forms.
*Fitted*: both as they are shipped; priors were added up in another order on purpose, so that RMSE
may differ by 1e-4. *Old*: this program takes the numbers that the other one fitted, and everything
must be the same bits. Exits with 1 where that is not so. Seconds are those of ``prepare`` and
``train``, priors included. It compares with ``d9985ce``, or a commit whose stores are like its own.
"""

import argparse
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.checkout import BEFORE, Program, check_out, this_program
from benchmarks.environment import write_result
from benchmarks.unchanged.compare import Difference, compare_runs
from benchmarks.unchanged.old_store import require_same_tasks, write_old_priors
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.training.prior_cache import cache_folder

MAX_RMSE_DIFFERENCE = 1e-4
"""Where sums were taken in another order on purpose."""


@dataclass(frozen=True)
class Case:
    """A data set, by options that both versions have under the same names."""

    name: str
    prepare: list[str]
    train: list[str]


@dataclass(frozen=True)
class Row:
    """One comparison of two trainings."""

    data: str
    priors: str
    """``fitted`` by each program, or ``old``: those of the old store in both."""
    workers: int
    difference: Difference
    seconds: tuple[float, float] | None
    """Old and new; None where priors were not fitted."""

    @property
    def is_as_expected(self) -> bool:
        if self.priors == "old":
            return self.difference.is_none
        return self.difference.rmse <= MAX_RMSE_DIFFERENCE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commit", default=BEFORE)
    parser.add_argument("--ml-100k", type=Path, help="RecBole atomic files and split.tsv")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="few users and steps")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.steps = 10
    rows: list[Row] = []
    moved: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        work, chosen = Path(folder), cases(options)
        programs = check_out(options.commit, work / "checkout"), this_program()
        total = len(chosen) * len(options.workers)
        with Display(Console(stderr=True)).bar("unchanged", total, "comparisons") as bar:
            for case in chosen:
                comparison = Comparison(case, programs, work / case.name, options.steps)
                comparison.prepare()
                moved[case.name] = comparison.write_old_priors()
                for workers in options.workers:
                    rows += comparison.rows(workers)
                    bar.update(len(rows) // 2, f"{case.name}, {workers} workers")
    show(rows, moved, options.commit)
    found = [{**asdict(row), "is_as_expected": row.is_as_expected} for row in rows]
    write_result(options.json, options, {"rows": found, "users_in_other_groups": moved})
    sys.exit(not all(row.is_as_expected for row in rows))


def cases(options: argparse.Namespace) -> list[Case]:
    """Synthetic data, and MovieLens 100K where it is at hand."""
    training = [f"train.steps={options.steps}", "train.log_every=1", "train.lanes=2"]
    training.append("cluster.threads=1")
    small = ["data.users=400", "data.items=300"] if options.quick else []
    synthetic = Case("synthetic", ["data=synthetic", *small], training)
    if options.ml_100k is None:
        return [synthetic]
    folder = options.ml_100k.resolve()
    log = ["data=recbole", f"data.path={folder}", f"data.split={folder / 'split.tsv'}"]
    return [Case("ml-100k", log, ["experiment=ml-100k", *training]), synthetic]


class Comparison:
    """Both programs on one data set."""

    def __init__(self, case: Case, programs: tuple[Program, Program], work: Path, steps: int):
        work.mkdir()
        self.case, self.work, self.steps = case, work, steps
        self.old, self.new = programs
        self.stores = work / "store-old", work / "store-new"
        self.store_with_old_priors = work / "store-with-old-priors"

    def prepare(self) -> None:
        """Prepare the data with both. Raises ``RuntimeError`` where tasks differ."""
        self.prepare_seconds = [
            program.run("prepare", *self.case.prepare, f"store={store}", log=self.work / "log")
            for program, store in zip((self.old, self.new), self.stores, strict=True)
        ]
        require_same_tasks(self.stores[0], Store(self.stores[1]))

    def write_old_priors(self) -> int:
        """Write a copy of the new store that has the old one's numbers as its priors.

        Returns how many training users are in another preference group than in the old store.
        """
        shutil.copytree(self.stores[1], self.store_with_old_priors)
        options = compose_config(self.case.train).priors
        return write_old_priors(self.stores[0], Store(self.store_with_old_priors), options)

    def rows(self, workers: int) -> list[Row]:
        """Train with so many workers, and compare."""
        old_run, old_seconds = self._train(self.old, self.stores[0], workers)
        # A training that finds its priors fitted would be compared with one that fits them.
        shutil.rmtree(cache_folder(self.stores[1]), ignore_errors=True)
        new_run, new_seconds = self._train(self.new, self.stores[1], workers)
        same_run, _ = self._train(self.new, self.store_with_old_priors, workers)
        seconds = (self.prepare_seconds[0] + old_seconds, self.prepare_seconds[1] + new_seconds)
        name = self.case.name
        return [
            Row(name, "fitted", workers, compare_runs(old_run, new_run, self.steps), seconds),
            Row(name, "old", workers, compare_runs(old_run, same_run, self.steps), None),
        ]

    def _train(self, program: Program, store: Path, workers: int) -> tuple[Path, float]:
        """The run, trained and evaluated, and the seconds of its training."""
        run = self.work / f"{store.name}-{workers}"
        words = [f"store={store}", f"run={run}", *self.case.train, f"cluster.workers={workers}"]
        seconds = program.run("train", *words, log=self.work / "log")
        program.run("evaluate", f"run={run}", log=self.work / "log")
        return run, seconds


def show(rows: list[Row], moved: dict[str, int], commit: str) -> None:
    """Print the table."""
    columns = ("data", "priors", "workers", "equal tensors", "largest difference", "in",
               "losses equal", "RMSE difference", "seconds old", "new", "as expected")  # fmt: skip
    table = Table(*columns, box=SIMPLE, title=f"this version against {commit}")
    for row in rows:
        difference = row.difference
        seconds = [f"{s:.1f}" for s in row.seconds] if row.seconds else ["", ""]
        table.add_row(
            row.data,
            row.priors,
            str(row.workers),
            f"{difference.tensors - len(difference.unequal)} of {difference.tensors}",
            f"{difference.largest:.1e}",
            difference.largest_in,
            "yes" if difference.are_losses_equal else "no",
            f"{difference.rmse:.1e}",
            *seconds,
            "yes" if row.is_as_expected else "NO",
        )
    console = Console(width=160)
    console.print(table)
    for data, num_users in moved.items():
        if num_users:
            console.print(
                f"{data}: {num_users} training users are in another preference group than in the "
                "old store, so bits must differ where groups weigh"
            )


if __name__ == "__main__":
    main()
