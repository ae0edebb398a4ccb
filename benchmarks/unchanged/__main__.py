"""Does a refactor change nothing? The program of another commit and this one, side by side.

``python -m benchmarks.unchanged [--commit HEAD] [--ml-100k FOLDER] [--workers 1 2] [--steps 100]
[--json FILE] [--quick]``. Both prepare the same data, train, and evaluate. The tensors of the
checkpoints, the losses of every step and the adapted RMSE must be the same bits. Exits with 1 where
they are not. Seconds are those of ``prepare`` and ``train``. Both must have the options that are
used here.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.checkout import Program, check_out, this_program
from benchmarks.environment import write_result
from benchmarks.unchanged.compare import Difference, compare_runs
from greatmeta_dist.display import Display


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
    workers: int
    difference: Difference
    seconds: tuple[float, float]
    """Of the other commit, and of this version."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commit", default="HEAD")
    parser.add_argument("--ml-100k", type=Path, help="RecBole atomic files and split.tsv")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="few users and steps")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.steps = 10
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work, chosen = Path(folder), cases(options)
        programs = check_out(options.commit, work / "checkout"), this_program()
        total = len(chosen) * len(options.workers)
        with Display(Console(stderr=True)).bar("unchanged", total, "comparisons") as bar:
            for case in chosen:
                (work / case.name).mkdir()
                stores = [prepare(program, case, work) for program in programs]
                for workers in options.workers:
                    rows.append(compare(programs, case, work, stores, workers, options.steps))
                    bar.update(len(rows), f"{case.name}, {workers} workers")
    show(rows, options.commit)
    write_result(options.json, options, {"rows": [asdict(row) for row in rows]})
    sys.exit(not all(row.difference.is_none for row in rows))


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


def prepare(program: Program, case: Case, work: Path) -> float:
    """Prepare a program's store of a case; its seconds."""
    store = work / case.name / f"store-{program.name}"
    return program.run("prepare", *case.prepare, f"store={store}", log=work / "log")


def compare(
    programs: tuple[Program, Program],
    case: Case,
    work: Path,
    prepare_seconds: list[float],
    workers: int,
    steps: int,
) -> Row:
    """Train and evaluate with both programs, with so many workers, and compare the runs."""
    runs, seconds = [], []
    for program, spent in zip(programs, prepare_seconds, strict=True):
        run = work / case.name / f"run-{program.name}-{workers}"
        words = [f"store={work / case.name / f'store-{program.name}'}", f"run={run}", *case.train]
        words.append(f"cluster.workers={workers}")
        seconds.append(spent + program.run("train", *words, log=work / "log"))
        program.run("evaluate", f"run={run}", log=work / "log")
        runs.append(run)
    before, now = runs
    return Row(case.name, workers, compare_runs(before, now, steps), (seconds[0], seconds[1]))


def show(rows: list[Row], commit: str) -> None:
    """Print the table."""
    columns = ("data", "workers", "equal tensors", "largest difference", "in", "losses equal",
               "RMSE difference", f"seconds of {commit}", "of this", "unchanged")  # fmt: skip
    table = Table(*columns, box=SIMPLE, title=f"this version against {commit}")
    for row in rows:
        difference = row.difference
        table.add_row(
            row.data,
            str(row.workers),
            f"{difference.tensors - len(difference.unequal)} of {difference.tensors}",
            f"{difference.largest:.1e}",
            difference.largest_in,
            "yes" if difference.are_losses_equal else "no",
            f"{difference.rmse:.1e}",
            *(f"{s:.1f}" for s in row.seconds),
            "yes" if difference.is_none else "NO",
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
