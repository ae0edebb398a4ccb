"""How fast, and in how much memory, are logs of many rows prepared? Beside other programs.

``python -m benchmarks.prepare [--rows 5 20 100] [--billion] [--format parquet csv]
[--programs new old ...] [--shapes ...] [--work DIR] [--json FILE]``. Rows are in millions.
Programs: ``new``, this version; ``old``, commit d9985ce, and ``old without priors``, whose fits are
left out (both take minutes for each million rows);
``polars``, ``duckdb`` and ``pandas``, plain scripts that write the same shards and check nothing.
They run in turns. ``--work`` keeps the logs for the next run. Hard shapes of log are prepared by
this version alone, at the least number of rows.
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.checkout import BEFORE, Program, check_out, this_program
from benchmarks.environment import write_result
from benchmarks.prepare.logs import SHAPES, write_log
from benchmarks.prepare.measure import Cost, available_mib, measure
from greatmeta_dist.display import Display

HERE = Path(__file__).parent
PROGRAMS = ("new", "old", "old without priors", "polars", "duckdb", "pandas")
SCRIPTS = ("polars", "duckdb", "pandas")
ROWS_PER_BUCKET = 1_250_000
"""What the scripts read into memory at a time, about."""
WIDTH = 150
"""Of the tables, where the output is no terminal."""


@dataclass(frozen=True)
class Row:
    """One program on one log."""

    num_rows: int
    format: str
    shape: str
    program: str
    cost: Cost
    phases: dict[str, list[float]] = field(default_factory=dict)
    """Seconds and processor seconds by phase; of the two versions of this program."""

    @property
    def log(self) -> str:
        """The log in words."""
        return f"{self.num_rows / 1e6:g} million, {self.format}, {self.shape}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, nargs="+", default=[5, 20, 100], help="millions")
    parser.add_argument("--billion", action="store_true", help="a log of a billion rows, too")
    parser.add_argument("--format", nargs="+", choices=["parquet", "csv"], default=["parquet"])
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--shapes", nargs="*", choices=SHAPES[1:], default=list(SHAPES[1:]))
    parser.add_argument("--limit-s", type=float, default=3600, help="of each run")
    parser.add_argument("--work", type=Path, help="a folder for logs, which are kept")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = [int(millions * 1e6) for millions in options.rows]
    if options.billion:
        sizes.append(10**9)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work = Path(folder)
        bench = Bench(options.work or work, work, options.limit_s)
        cases = [
            (size, form, "plain", program)
            for form in options.format
            for size in sizes
            for program in options.programs
        ]
        cases += [(min(sizes), "parquet", shape, "new") for shape in options.shapes]
        rows = []
        with Display(Console(stderr=True)).bar("prepare", len(cases), "runs") as bar:
            for number, (size, form, shape, program) in enumerate(cases):
                bar.update(number, f"{program}, {size / 1e6:g} million rows, {form}, {shape}")
                rows.append(bench.run(size, form, shape, program))
            bar.update(len(cases), "")
    show(rows)
    write_result(options.json, options, {"rows": [asdict(row) for row in rows]})


class Bench:
    """Runs programs on logs, each as a child of its own."""

    def __init__(self, logs: Path, work: Path, limit_s: float):
        """``work`` is emptied by the caller; ``logs`` may have logs of runs before."""
        logs.mkdir(parents=True, exist_ok=True)
        self.logs, self.work, self.limit_s = logs, work, limit_s
        self._old: Program | None = None

    def run(self, num_rows: int, form: str, shape: str, program: str) -> Row:
        log = write_log(self.logs, num_rows, form, shape)
        out, phases = self.work / "out", self.work / "phases.json"
        phases.unlink(missing_ok=True)
        if program in SCRIPTS:
            cost = self._run_script(program, log, out, num_rows)
        else:
            words = [form, str(log), str(out), str(phases)]
            if program == "old without priors":
                words.append("--without-priors")
            cost = self._measure(self._version(program), HERE / "run_prepare.py", words)
        shutil.rmtree(out, ignore_errors=True)
        seconds = json.loads(phases.read_text()) if phases.exists() else {}
        return Row(num_rows, form, shape, program, cost, seconds)

    def _run_script(self, program: str, log: Path, out: Path, num_rows: int) -> Cost:
        if importlib.util.find_spec(program) is None:
            return Cost(0.0, 0.0, 0.0, f"skipped: {program} is not installed")
        words = [str(log), str(out), str(max(1, num_rows // ROWS_PER_BUCKET))]
        return self._measure(this_program(), HERE / f"with_{program}.py", words)

    def _version(self, program: str) -> Program:
        if program == "new":
            return this_program()
        if self._old is None:
            self._old = check_out(BEFORE, self.work / "checkout")
        return self._old

    def _measure(self, program: Program, script: Path, words: list[str]) -> Cost:
        return measure(
            # Without -P this folder's modules would come before those of the program.
            [sys.executable, "-P", str(script), *words],
            environ={**os.environ, "PYTHONPATH": str(program.folder)},
            cwd=self.work,
            log=self.work / "log",
            limit_s=self.limit_s,
            limit_mib=0.8 * available_mib(),
        )


def show(rows: list[Row]) -> None:
    """Print the tables: costs, with ratios to this version's, and seconds by phase."""
    console = Console()
    console.width = max(console.width, WIDTH)
    columns = ("log", "program", "seconds", "to new", "processor s", "to new", "MiB", "to new",
               "million rows/s", "")  # fmt: skip
    table = Table(*columns, box=SIMPLE, title="preparing a log")
    new = {row.log: row.cost for row in rows if row.program == "new"}
    for row in rows:
        table.add_row(row.log, row.program, *_figures(row, new.get(row.log)))
    console.print(table)
    phases = Table("log", "program", "phase", "seconds", "processor s", box=SIMPLE, title="phases")
    for row in rows:
        for phase, (seconds, processor) in row.phases.items():
            phases.add_row(row.log, row.program, phase, f"{seconds:.1f}", f"{processor:.1f}")
    console.print(phases)


def _figures(row: Row, new: Cost | None) -> list[str]:
    def with_ratio(name: str, form: str) -> list[str]:
        value = getattr(row.cost, name)
        if new is None or new.failure or row.cost.failure:
            return [f"{value:{form}}", ""]
        return [f"{value:{form}}", f"{value / getattr(new, name):.2f}"]

    return [
        *with_ratio("seconds", ".1f"),
        *with_ratio("processor_seconds", ".1f"),
        *with_ratio("peak_mib", ".0f"),
        "" if row.cost.failure else f"{row.num_rows / row.cost.seconds / 1e6:.2f}",
        row.cost.failure or "",
    ]


if __name__ == "__main__":
    main()
