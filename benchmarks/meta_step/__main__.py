"""Users a second, memory and time by phase of whole meta steps, against the two usual ways.

``python -m benchmarks.meta_step [--json FILE] [--form paper|shipped] [--users 32 128]
[--precision float32|tf32|bf16] [--profile FILE] [--quick]``. Every rate is the median over rounds
that take the variants in turns, so that a noisy machine touches all alike; all figures come from
one run. The references take the published step on the form's model; this project's step is the
form's own. Work is counted by ``shapes.flops_per_user``. ``--quick`` is to see that all works.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.environment import write_result
from benchmarks.meta_step.accuracy import accuracy
from benchmarks.meta_step.cases import Case
from benchmarks.meta_step.comparison import compare, compare_table_sizes, phases
from benchmarks.meta_step.loading import loading
from benchmarks.meta_step.shapes import SHAPES
from benchmarks.meta_step.tables import show
from benchmarks.meta_step.timing import matrix_rate

TABLE_SIZES, QUICK_TABLE_SIZES = (10_000, 10_000_000), (10_000, 100_000)
"""Embedding rows of the tables whose steps are compared."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--form", choices=("paper", "shipped"), default="paper")
    parser.add_argument("--precision", choices=("float32", "tf32", "bf16"), default="float32")
    parser.add_argument("--users", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    parser.add_argument("--profile", type=Path, help="write a Chrome trace of the first shape here")
    parser.add_argument("--quick", action="store_true", help="one shape, small data, one round")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    result = measure(options)
    show(result, Console(width=160))
    write_result(options.json, options, result)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is printed, by name."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    matrix_gflop_per_s = matrix_rate(device)
    torch.backends.cuda.matmul.allow_tf32 = options.precision == "tf32"
    cases = SHAPES[1:2] if options.quick else SHAPES
    shapes = []
    for shape in cases:
        comparison = compare(shape, options, device, matrix_gflop_per_s)
        case = Case(shape, options.form, options.users[-1], device, options.precision)
        trace = options.profile if shape is cases[0] else None
        shapes.append({**comparison, "phases": phases(case.ours(), trace)})
    table_sizes = QUICK_TABLE_SIZES if options.quick else TABLE_SIZES
    sizes = {"num_users": 400, "rounds": 1} if options.quick else {}
    return {
        "form": options.form,
        "precision": options.precision,
        "matrix_gflop_per_s": matrix_gflop_per_s,
        "shapes": shapes,
        "rows": compare_table_sizes(device, table_sizes, rounds=1 if options.quick else 30),
        "loading": loading(options.users, **sizes),
        "accuracy": accuracy(cases[0], options.form, device),
    }


if __name__ == "__main__":
    main()
