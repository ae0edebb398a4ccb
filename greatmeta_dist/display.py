"""What a person sees: progress bars on a terminal, plain lines elsewhere, tables of results."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
)
from rich.table import Table
from rich.text import Text

from greatmeta_dist.storage.local_copy import shown

MIN_WIDTH = 100
"""Columns of text that a table of results needs."""
SECONDS_BETWEEN_LINES = 5.0
UNDEFINED = "–"

Numbers = Mapping[str, float | None]
"""By name; an undefined number is None or nan."""


class Bar(Protocol):
    """Shows how far one activity is."""

    def update(self, done: float, detail: str = "") -> None:
        """Show that ``done`` of the total are done; ``detail`` such as a loss stands beside it."""


class Display:
    """Prints for people, on standard output unless another console is given."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        if console is None and not (self.console.is_terminal and self.console.width >= MIN_WIDTH):
            self.console = Console(width=MIN_WIDTH)

    def say(self, text: str) -> None:
        """Print one plain line; folders on object stores by their URLs."""
        self.say_as_is(shown(text))

    def say_as_is(self, text: str) -> None:
        """Print one plain line, with the paths that this machine has."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, label: str, total: int, unit: str, *, done: int = 0) -> Iterator[Bar]:
        """A bar for one activity, of which ``done`` of ``total`` units were done before."""
        pace = _Pace(total, unit, done)
        if not self.console.is_terminal:
            yield _LineBar(self.console, label, pace)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TextColumn("{task.fields[eta]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(label, total=total, completed=done, detail="", eta="")
            yield _TerminalBar(progress, task, pace)

    def results(self, evaluation: dict[str, Any]) -> None:
        """Print the tables of ``evaluation.json``, one for each scenario."""
        for scenario, results in evaluation["scenarios"].items():
            self._print(_scenario_table(scenario, results))
            if "known_of_new_items" in results:
                self.say(_known_of_new_items(scenario, results["known_of_new_items"]))
            for line in _who_counts(results):
                self.say(line)
            if "worst_tenth" in results:
                self._print(_worst_table(scenario, results["worst_tenth"]["models"]))
            if "catalogue" in results:
                self._print(_catalogue_table(scenario, results["catalogue"]))
                for line in _who_counts_in_catalogue(results):
                    self.say(line)
            for kind, lists in results.get("lists", {}).items():
                self._print(_lists_table(f"{scenario}, {kind}", lists, evaluation["lists"]))
                self.say(_list_counts(lists))
            for num_rows, known in results.get("known_rows", {}).items():
                self._print(_scenario_table(f"{scenario}, first {num_rows} known", known))
        self.say("MAE and RMSE are in the ratings' units; gap is minority RMSE minus majority RMSE")
        if "lists" in evaluation:
            positive_at = evaluation["lists"]["positive_at"]
            self.say(f"lists: labels from {positive_at:g} on are positive; novelty is in bits")
        self.say("worst tenth: each number over the tenth of users for whom it is worst")
        for name, value in evaluation["notes"].items():
            self.say(f"{name.replace('_', ' ')}: {value:.3f}")

    def comparison(self, comparison: dict[str, Any]) -> None:
        """Print the tables of ``comparison.json``, one for each scenario."""
        self.say(f"{comparison['run']} against {comparison['against']}, adapted")
        for scenario, parts in comparison["scenarios"].items():
            self._print(_comparison_table(scenario, parts))
        self.say(
            "difference: mean over users, with its 95% interval; p: Wilcoxon's signed-rank test"
        )

    def _print(self, table: Table) -> None:
        self.console.print(table, highlight=False)


class Silent(Display):
    """Prints nothing: of several workers, only the first one reports."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True, force_terminal=False))


@dataclass(frozen=True)
class _Pace:
    """How fast an activity goes that started just now."""

    total: int
    unit: str
    done_before: int
    """Units that were done before this start, as in a resumed run."""
    start: float = field(default_factory=time.monotonic)

    def per_second(self, done: float) -> float:
        return (done - self.done_before) / max(time.monotonic() - self.start, 1e-3)

    def eta(self, done: float) -> str:
        """How long the rest takes if it goes as fast as what was done; empty where none was."""
        if done <= self.done_before:
            return ""
        seconds_each = (time.monotonic() - self.start) / (done - self.done_before)
        return f"eta {seconds_each * (self.total - done):.0f} s"

    def detail(self, done: float, detail: str) -> str:
        """The detail, with a rate where users are counted."""
        is_rate_shown = self.unit == "users"
        return f"{detail}  {self.per_second(done):.0f} users/s" if is_rate_shown else detail


class _TerminalBar:
    """A bar that moves."""

    def __init__(self, progress: Progress, task: TaskID, pace: _Pace):
        self._progress, self._task, self._pace = progress, task, pace

    def update(self, done: float, detail: str = "") -> None:
        self._progress.update(
            self._task,
            completed=done,
            detail=self._pace.detail(done, detail),
            eta=self._pace.eta(done),
        )


class _LineBar:
    """A line now and then, and one at the end, where output is no terminal but a log."""

    def __init__(self, console: Console, label: str, pace: _Pace):
        self._console, self._label, self._pace = console, label, pace
        self._last_line = pace.start

    def update(self, done: float, detail: str = "") -> None:
        pace, now = self._pace, time.monotonic()
        if now - self._last_line < SECONDS_BETWEEN_LINES and done < pace.total:
            return
        self._last_line = now
        line = f"{self._label}: {int(done)}/{pace.total} {pace.unit}  {pace.detail(done, detail)}"
        line = f"{line}  {pace.eta(done)}"
        self._console.print(line, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class _Column:
    """One number of every row of a table."""

    heading: str
    numbers: Numbers
    """By row; a row without the number stays empty."""
    decimals: int = 3
    is_higher_better: bool | None = None
    """The best number is printed bold; None where no number is better than another."""
    sign: str = ""
    """``+`` shows the sign of positive numbers too."""

    def cell(self, row: str) -> Text:
        if row not in self.numbers:
            return Text("")
        number = self.numbers[row]
        if number is None or math.isnan(number):
            return Text(UNDEFINED)
        is_best = number == self.best()
        return Text(f"{number:{self.sign}.{self.decimals}f}", style="bold" if is_best else "")

    def best(self) -> float | None:
        known = [n for n in self.numbers.values() if n is not None and not math.isnan(n)]
        if self.is_higher_better is None or not known:
            return None
        return max(known) if self.is_higher_better else min(known)


def _scenario_table(scenario: str, results: dict[str, Any]) -> Table:
    """Every model's numbers; with preference groups also the minority's RMSE and the gap."""
    models = results["models"] | ({"chance": results["chance"]} if "chance" in results else {})
    columns = _metric_columns(models)
    groups = results["groups"]
    if "minority" in groups:
        minority = _by_model(groups["minority"]["models"], "rmse")
        columns.append(_Column("minority rmse", minority, is_higher_better=False))
        columns.append(_Column("gap", _by_model(groups["gap"], "rmse"), sign="+"))
    return _table(f"{scenario}, {results['users']} users", list(models), columns)


def _worst_table(scenario: str, models: dict[str, Numbers]) -> Table:
    """Every model's numbers over the tenth of users for whom they are worst."""
    return _table(f"worst tenth of {scenario}", list(models), _metric_columns(models))


def _metric_columns(models: dict[str, Numbers]) -> list[_Column]:
    """The numbers of every registered metric."""
    # Imported here because it needs NumPy, and a command that prints no table starts without.
    from greatmeta_dist.evaluation.metrics import metric_of, registered_metrics

    return [
        _Column(
            number,
            _by_model(models, number),
            decimals=metric.decimals,
            is_higher_better=metric.is_higher_better,
        )
        for name, metric in registered_metrics().items()
        for number in models["adapted"]
        if metric_of(number) == name
    ]


def _catalogue_table(scenario: str, models: dict[str, Numbers]) -> Table:
    """How high each model puts clicked items in the whole catalogue: hit rates, then nDCG."""
    names = [number for numbers in models.values() for number in numbers]
    kinds = list(dict.fromkeys(name.partition("@")[0] for name in names))
    ordered = sorted(dict.fromkeys(names), key=lambda name: kinds.index(name.partition("@")[0]))
    columns = [_Column(name, _by_model(models, name), is_higher_better=True) for name in ordered]
    return _table(f"{scenario}, whole catalogue", list(models), columns)


def _known_of_new_items(scenario: str, known: Mapping[str, int]) -> str:
    """What is known of new items in a scenario of these."""
    if not known["ratings"]:
        return "new items by content alone: no support has a rating of one"
    what = f"{known['ratings']:,} ratings of {known['items']:,} new items in the supports"
    if scenario.endswith("_rated"):
        return f"new items with the {what}"
    return f"new items by content alone; {scenario}_rated has the {what}, too"


def _lists_table(title: str, lists: dict[str, Any], settings: dict[str, Any]) -> Table:
    """The main numbers of lists; all are in ``evaluation.json``."""
    models, cutoffs = lists["models"], settings["cutoffs"]
    main = 10 if 10 in cutoffs else cutoffs[-1]
    names = [f"recall@{k}" for k in cutoffs[:3]]
    names += [f"ndcg@{main}", "mrr", f"coverage@{main}", f"novelty@{main}"]
    columns = [
        # Without the middle of the word a table has room in 100 columns.
        _Column(name.replace("age@", "@"), _by_model(models, name), is_higher_better=True)
        for name in names
    ]
    return _table(title, list(models), columns)


def _list_counts(lists: dict[str, Any]) -> str:
    """How many users the numbers of lists are of."""
    kinds: dict[int, list[str]] = {}
    for number, num_counted in lists["counted"].items():
        kinds.setdefault(num_counted, []).append(number.partition("@")[0])
    parts = [f"{', '.join(dict.fromkeys(names))} of {n}" for n, names in kinds.items()]
    return f"{'; '.join(parts)} of {lists['users']} users"


def _comparison_table(title: str, parts: dict[str, dict[str, Any]]) -> Table:
    """The main numbers of two runs, how they differ, and how sure that is."""
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column(title, no_wrap=True)
    for heading in ("run", "against", "difference", "95% interval", "p", "users"):
        table.add_column(heading, justify="right", no_wrap=True)
    for part, tests in parts.items():
        for number in tests if part == "ratings" else _main_of_lists(list(tests)):
            test = tests[number]
            low, high = test["interval"]
            table.add_row(
                number if part == "ratings" else f"{part} {number}",
                *(_number(test[name]) for name in ("ours", "theirs")),
                _number(test["difference"], "+"),
                UNDEFINED if low is None else f"{low:+.4f}, {high:+.4f}",
                _number(test["p_value"]),
                str(test["users"]),
            )
    return table


def _main_of_lists(numbers: list[str]) -> list[str]:
    """The numbers of lists that are shown of two runs: of one cutoff, 10 if it is there."""
    cutoffs = [int(n.partition("@")[2]) for n in numbers if n.startswith("recall@")]
    main = 10 if 10 in cutoffs else max(cutoffs, default=0)
    shown = (f"recall@{main}", f"ndcg@{main}", "mrr", f"novelty@{main}")
    return [number for number in numbers if number in shown]


def _number(value: float | None, sign: str = "") -> str:
    return UNDEFINED if value is None else f"{value:{sign}.4f}"


def _who_counts(results: Mapping[str, Any]) -> list[str]:
    """A line for the numbers that some of a scenario's users do not count in, and why."""
    # Imported here as above.
    from greatmeta_dist.evaluation.metrics import metric_of, registered_metrics

    num_users = results["users"]
    numbers: dict[tuple[int, str], list[str]] = {}
    for number, num_counted in results.get("counted", {}).items():
        if num_counted < num_users:
            left_out = registered_metrics()[metric_of(number)].left_out
            numbers.setdefault((num_counted, left_out), []).append(number)
    return [
        _line(names, num_counted, left_out, num_users)
        for (num_counted, left_out), names in numbers.items()
    ]


def _who_counts_in_catalogue(results: Mapping[str, Any]) -> list[str]:
    from greatmeta_dist.evaluation.metrics import NOTHING_TO_RANK

    num_users = results["users"]
    num_counted = results.get("catalogue_counted", num_users)
    is_any = num_counted < num_users
    return [_line(["whole catalogue"], num_counted, NOTHING_TO_RANK, num_users)] if is_any else []


def _line(names: list[str], num_counted: int, left_out: str, num_users: int) -> str:
    """``ndcg@1, 3, 5, 10 and auc of 118 of 120 users; 2 have nothing to rank``."""
    cutoffs: dict[str, list[str]] = {}
    for name in names:
        metric, _, cutoff = name.partition("@")
        cutoffs.setdefault(metric, []).append(cutoff)
    *first, last = [
        f"{metric}@{', '.join(values)}" if any(values) else metric
        for metric, values in cutoffs.items()
    ]
    what = f"{', '.join(first)} and {last}" if first else last
    if not num_counted:
        return f"{what} undefined: of {num_users} users each has {left_out}"
    others = num_users - num_counted
    has = "has" if others == 1 else "have"
    return f"{what} of {num_counted} of {num_users} users; {others} {has} {left_out}"


def _by_model(models: Mapping[str, Numbers], number: str) -> Numbers:
    return {model: numbers[number] for model, numbers in models.items() if number in numbers}


def _table(title: str, rows: list[str], columns: list[_Column]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column(title, no_wrap=True)
    for column in columns:
        table.add_column(column.heading, justify="right")
    for row in rows:
        table.add_row(row, *(column.cell(row) for column in columns))
    return table
