"""The table of a sweep: shown, and written as ``summary.json`` and ``summary.csv``."""

import csv
import io
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from greatmeta_dist.display import UNDEFINED, Display
from greatmeta_dist.files import write_json_atomically, write_text_atomically
from greatmeta_dist.sweep.folder import SweepFolder
from greatmeta_dist.sweep.results import Result, describe_best, loss_name, option_value

JSON, CSV = "summary.json", "summary.csv"
SHOWN = ("rmse", "mae", "auc", "log_loss", "ndcg@10")
"""Metrics that the shown table has, where they are defined; the files have all."""
NUMBER_WIDTH = 6
HIGHER_IS_BETTER = ("auc", "ndcg", "hr", "recall", "mrr")


def write_summary(folder: SweepFolder, results: list[Result]) -> dict[str, Any]:
    """Write both files; returns what ``summary.json`` holds."""
    summary = _summary(folder, results)
    write_json_atomically(folder.path / JSON, summary)
    write_text_atomically(folder.path / CSV, _csv(summary))
    return summary


def show_summary(display: Display, folder: Path, summary: dict[str, Any]) -> None:
    """Print the table, the best run, and what failed."""
    display.console.print(_table(summary), highlight=False)
    runs = {run["run"]: run for run in summary["runs"]}
    if summary["best"] is not None:
        best = runs[summary["best"]]
        numbers = {"step": best["step"], **best["valid"]}
        display.say(f"* best validation {describe_best(numbers)}: {folder / best['run']}")
    failed = [run for run in summary["runs"] if run["status"] == "failed"]
    for run in failed:
        display.say(f"failed {run['run']}: {run['message']}")
    display.say(f"written to {folder / JSON} and {CSV}; logs are RUN/train.log")


def _summary(folder: SweepFolder, results: list[Result]) -> dict[str, Any]:
    keys = sorted({key for result in results for key in result.job.values})
    losses = {r.job.name: r.loss for r in results if r.loss is not None}
    best = min(losses, key=lambda name: losses[name]) if losses else None
    chosen_by = next((loss_name(r.best) for r in results if r.best is not None), None)
    return {
        "chosen_by": chosen_by,
        "best": best,
        "runs": [
            {
                "run": r.job.name,
                "status": r.status,
                "options": {key: option_value(folder, r.job, key) for key in keys},
                "step": None if r.best is None else r.best["step"],
                "valid": {k: v for k, v in (r.best or {}).items() if k != "step"},
                "test": r.scenarios,
                "message": r.message,
            }
            for r in results
        ],
    }


def _numbers(run: dict[str, Any]) -> dict[str, float | None]:
    """All metrics of a run, as ``valid rmse`` or ``user_cold rmse``."""
    parts = {"valid": run["valid"], **run["test"]}
    return {f"{part} {name}": value for part, of in parts.items() for name, value in of.items()}


def _csv(summary: dict[str, Any]) -> str:
    """A row for each run: its folder, options, and all metrics."""
    runs = summary["runs"]
    names = list(dict.fromkeys(name for run in runs for name in _numbers(run)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    options = list(runs[0]["options"]) if runs else []
    writer.writerow(["run", "best", "status", *options, "step", *names, "message"])
    for run in runs:
        numbers = _numbers(run)
        writer.writerow(
            [
                run["run"],
                "*" if run["run"] == summary["best"] else "",
                run["status"],
                *run["options"].values(),
                run["step"],
                *(numbers.get(name) for name in names),
                run["message"],
            ]
        )
    return text.getvalue()


def _table(summary: dict[str, Any]) -> Table:
    """The options that differ, and the main metrics; the best run and numbers stand out."""
    runs = summary["runs"]
    numbers = {run["run"]: _numbers(run) for run in runs}
    names = _shown_names(runs)
    bests = {name: _best([of.get(name) for of in numbers.values()], name) for name in names}
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("")
    for heading in _short(list(runs[0]["options"]) if runs else []):
        table.add_column(heading, overflow="fold")
    for heading in ("status", "step"):
        table.add_column(heading, no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", min_width=NUMBER_WIDTH)
    for run in runs:
        cells = [_cell(numbers[run["run"]].get(name), bests[name]) for name in names]
        table.add_row(
            "*" if run["run"] == summary["best"] else "",
            *map(_shown, run["options"].values()),
            run["status"],
            "" if run["step"] is None else str(run["step"]),
            *cells,
        )
    return table


def _shown_names(runs: list[dict[str, Any]]) -> list[str]:
    """The main number of each scenario; of validation also the second one."""
    names = list(dict.fromkeys(name for run in runs for name in _numbers(run)))
    parts: dict[str, list[str]] = {}
    for metric in SHOWN:
        for name in names:
            part, _, of = name.partition(" ")
            if of == metric:
                parts.setdefault(part, []).append(name)
    is_tested = len(parts) > 1
    return [n for part, of in parts.items() for n in of[: 1 if is_tested else 2]]


def _shown(text: str) -> str:
    """An option's value; a number that a search drew, in few digits."""
    try:
        return text if len(text) <= NUMBER_WIDTH else f"{float(text):.4g}"
    except ValueError:
        return text


def _cell(number: float | None, best: float | None) -> Text:
    if number is None:
        return Text(UNDEFINED)
    return Text(f"{number:.4f}", style="bold" if number == best else "")


def _best(numbers: list[float | None], name: str) -> float | None:
    known = [number for number in numbers if number is not None]
    if not known:
        return None
    is_higher = name.partition(" ")[2].partition("@")[0] in HIGHER_IS_BETTER
    return max(known) if is_higher else min(known)


def _short(options: list[str]) -> list[str]:
    """Options without their section, where that tells them apart."""
    last = [option.rpartition(".")[2] for option in options]
    return [
        name if last.count(name) == 1 else whole for name, whole in zip(last, options, strict=True)
    ]
