"""Nothing is lost and nothing invented: generated logs, prepared and read by a slow plain reader.

``python -m benchmarks.fuzz [--rows 1000000] [--seed 0]``. Every row that is read is in a task, was
merged into another one, was left out by a rule, or was rejected; and the store holds what plain
Python makes of the log. Exits with 1 where that is not so.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.fuzz.cases import Case, cases, form_cases
from greatmeta_dist.display import Display


def main() -> int:
    """Run all cases; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of all logs together")
    parser.add_argument("--seed", type=int, default=0, help="of the generated logs")
    arguments = parser.parse_args()
    display, num_failed = Display(), 0
    num_rows = arguments.rows // 3
    for case in (*cases(num_rows=2 * num_rows), *form_cases(num_rows=num_rows)):
        reseeded = replace(case, seed=case.seed + 1000 * arguments.seed)
        num_failed += not _passes(reseeded, display)
    display.say(f"{num_failed} cases failed" if num_failed else "every row is accounted for")
    return int(num_failed > 0)


def _passes(case: Case, display: Display) -> bool:
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = case.check(Path(folder))
        except AssertionError as error:
            display.say(f"{case.name}, seed {case.seed}: {error}")
            return False
    left_out = report.unrated + report.other_events + report.out_of_bounds + report.unused
    display.say(
        f"{case.name}: {report.read} rows read, {report.repeats} repeats, {left_out} left out, "
        f"{report.rejected} rejected; {time.monotonic() - start:.0f} s"
    )
    return True


if __name__ == "__main__":
    sys.exit(main())
