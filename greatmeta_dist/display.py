"""What a person sees: bars on a terminal, plain lines elsewhere, result tables."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from greatmeta_dist.evaluation.metrics import CUTOFFS

METRICS = ("mae", "rmse", *(f"ndcg@{k}" for k in CUTOFFS), "auc")
SECONDS_BETWEEN_LINES = 5.0


class Bar:
    """Progress of one activity: a bar, or a line now and then."""

    def __init__(self, console: Console, label: str, total: int, unit: str):
        self._console, self._label, self._total, self._unit = console, label, total, unit
        self._start = self._last = time.monotonic()
        self._first = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def _open(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(self._label, total=self._total, detail="")
        self._bar.start()

    def begin(self, done: int) -> None:
        """Start, perhaps in the middle."""
        self._first = done
        self._start = self._last = time.monotonic()
        if self._console.is_terminal:
            self._open()
            self.update(done)

    def update(self, done: int, detail: str = "") -> None:
        """Say how far it is; ``detail`` such as a loss or a rate."""
        if self._unit == "users":
            seconds = max(time.monotonic() - self._start, 1e-3)
            detail = f"{detail}  {(done - self._first) / seconds:.0f} users/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, detail=detail)
            return
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES and done < self._total:
            return
        self._last = now
        eta = (now - self._start) / max(done - self._first, 1) * (self._total - done)
        line = f"{self._label}: {done}/{self._total} {self._unit}"
        self._console.print(f"{line}  {detail}  eta {eta:.0f} s", highlight=False, soft_wrap=True)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Display:
    """Prints for people, on standard output."""

    def __init__(self) -> None:
        self.console = Console()
        if not self.console.is_terminal or self.console.width < 100:
            self.console = Console(width=100)

    def say(self, text: str) -> None:
        """One plain line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, label: str, total: int, unit: str, *, done: int = 0) -> Iterator[Bar]:
        bar = Bar(self.console, label, total, unit)
        bar.begin(done)
        try:
            yield bar
        finally:
            bar.end()

    def results(self, evaluation: dict[str, Any]) -> None:
        """The tables of ``evaluation.json``, one for each scenario."""
        for scenario, found in evaluation["scenarios"].items():
            groups = found["groups"]
            metrics = [m for m in METRICS if m in found["models"]["adapted"]]
            has_minority = "minority" in groups
            table = Table(box=SIMPLE, pad_edge=False)
            table.add_column(f"{scenario}, {found['users']} users", no_wrap=True)
            for name in (*metrics, *(("minority rmse", "gap") if has_minority else ())):
                table.add_column(name, justify="right")
            for model, values in found["models"].items():
                row = [f"{values[m]:.3f}" for m in metrics]
                if has_minority:
                    row.append(f"{groups['minority']['models'][model]['rmse']:.3f}")
                    row.append(f"{groups['gap'][model]['rmse']:+.3f}")
                table.add_row(model, *row)
            chance = [f"{found['chance'][m]:.3f}" if m in found["chance"] else "" for m in metrics]
            table.add_row("chance", *chance)
            self.console.print(table, highlight=False)
            if "catalogue" in found:
                self._catalogue(scenario, found["catalogue"])
        self.say("in the ratings' own units; gap: minority minus majority RMSE")
        for name, value in evaluation["notes"].items():
            self.say(f"{name.replace('_', ' ')}: {value:.3f}")

    def _catalogue(self, scenario: str, models: dict[str, dict[str, float]]) -> None:
        """Where clicked items stand among the whole catalogue."""
        metrics = [f"{m}@{k}" for m in ("hr", "ndcg") for k in CUTOFFS]
        table = Table(box=SIMPLE, pad_edge=False)
        table.add_column(f"{scenario}, whole catalogue", no_wrap=True)
        for name in metrics:
            table.add_column(name, justify="right")
        for model, values in models.items():
            table.add_row(model, *(f"{values[m]:.3f}" for m in metrics))
        self.console.print(table, highlight=False)


class Silent(Display):
    """Says nothing: of all workers, the first one tells."""

    def __init__(self) -> None:
        self.console = Console(quiet=True)
