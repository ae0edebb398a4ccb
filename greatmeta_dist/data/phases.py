"""The phases of a preparation: units of each are run, marked when they end, and never run again.

A preparation that was killed goes on from the marks. They lie in the work folder beside what the
units wrote, as JSON.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from greatmeta_dist.data.units import Result, RunUnits, UnitFunction, run_in_threads
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.files import written_atomically

Progress = Callable[[str, float], None]
"""Told the phase, and the share of the whole preparation that is done: it ends at 1, and never
goes back."""
STORE_AND_LOGS = "store=DIR, and the logs,"
"""What a preparation's workers must see."""
MAX_UNSEEN = 0.9
"""Largest share of what is left of a phase that is taken for done before any unit ends."""


@dataclass(frozen=True)
class _Marked:
    """A unit's function that leaves a mark with its result."""

    folder: Path
    function: UnitFunction
    seen_by_all: str = STORE_AND_LOGS

    def __call__(self, number: int, unit: Any) -> Result:
        require(
            self.folder.is_dir(),
            f"a worker does not see {self.folder.parent}; {self.seen_by_all} must lie on a file "
            "system that all machines of the cluster share",
        )
        with errors_in_our_words():
            result = self.function(number, unit)
        with written_atomically(_mark(self.folder, number)) as partial:
            partial.write_text(json.dumps(result))
        return result


class Phases:
    """Runs the phases of one preparation."""

    def __init__(
        self,
        folder: Path,
        *,
        run_units: RunUnits | None = None,
        progress: Progress = lambda phase, share: None,
        seen_by_all: str = STORE_AND_LOGS,
    ):
        """``folder`` keeps the marks; it must be made for the same log and options alone.

        ``seen_by_all`` names what must lie where all workers see it.
        """
        self.folder, self._seen_by_all = folder, seen_by_all
        self._run_units = run_units or run_in_threads()
        self._progress = progress
        self._expected: dict[str, float] = {}
        self._done, self._share, self._start = 0.0, 0.0, time.monotonic()

    def expect(self, costs: dict[str, float]) -> None:
        """The phases that are to come, in order, and about what each costs, in any one unit.

        A phase that does not come costs nothing. May be called again when more is known.
        """
        self._expected = costs

    def folder_of(self, phase: str) -> Path:
        """Where a phase has its marks, and its units may write."""
        folder = self.folder / phase.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def run(
        self,
        phase: str,
        function: UnitFunction,
        units: Sequence[Any],
        *,
        part: str = "",
        cost: float | None = None,
        unit_costs: Sequence[float] | None = None,
        run_units: RunUnits | None = None,
    ) -> list[Result]:
        """Run a function over the units of a phase; their results in the order of the units.

        A phase may come in several parts, each with a name and a ``cost`` of its own.
        ``unit_costs`` say how it is shared by the units, where these differ. ``run_units`` says who
        works, where that is not who works else.
        """
        folder = self.folder_of(f"{phase} {part}".strip())
        left = self._begin(phase, cost)
        weights = list(unit_costs) if unit_costs else [1.0] * len(units)
        scale = left / max(sum(weights), 1e-9)
        results = {k: _read_mark(_mark(folder, k)) for k in range(len(units))}
        # What an earlier start has done is no part of what this one has to do.
        left -= scale * sum(w for k, w in enumerate(weights) if results[k] is not None)
        self._tell(phase, left)
        waiting = [(k, unit) for k, unit in enumerate(units) if results[k] is None]
        pace = _Pace.of(self._done, self._start)
        run_units = run_units or self._run_units
        marked = _Marked(folder, function, self._seen_by_all)
        for one in run_units(marked, waiting) if waiting else ():
            if one is None:  # units are under way
                self._tell(phase, left, pace.since_last(left))
                continue
            number, result = one
            results[number] = result
            spent = scale * weights[number]
            left -= spent
            self._done += spent
            pace.add(spent)
            self._tell(phase, left)
        ended = [result for result in results.values() if result is not None]
        assert len(ended) == len(units)
        return ended

    def num_done(self, phase: str, sizes: Sequence[int]) -> int:
        """The sizes of a phase's units that an earlier start has done, added up."""
        folder = self.folder_of(phase)
        return sum(size for k, size in enumerate(sizes) if _mark(folder, k).exists())

    def _begin(self, phase: str, cost: float | None) -> float:
        """What the phase costs; phases that should have come before it will not come."""
        if phase in self._expected:
            names = list(self._expected)
            self._expected = {n: self._expected[n] for n in names[names.index(phase) :]}
        expected = self._expected.pop(phase, 0.0)
        if cost is None:
            return expected
        if expected > cost:  # the phase comes in several parts
            self._expected = {phase: expected - cost, **self._expected}
        return cost

    def _tell(self, phase: str, left: float, under_way: float = 0.0) -> None:
        total = self._done + max(left, 0.0) + sum(self._expected.values())
        share = (self._done + under_way) / total if total else 0.0
        self._share = max(self._share, min(share, 1.0))
        self._progress(phase, self._share)

    def end(self, phase: str) -> None:
        """All is done."""
        self._share = 1.0
        self._progress(phase, 1.0)


@dataclass
class _Pace:
    """How fast a phase goes: units that are under way are not seen until they end."""

    before: float
    """Cost a second, before the phase."""
    start: float
    last: float
    """When a unit ended last."""
    done: float = 0.0

    @classmethod
    def of(cls, done: float, start: float) -> "_Pace":
        """At the begin of a phase, of a preparation that has done so much since its start."""
        now = time.monotonic()
        return cls(done / max(now - start, 1e-3), now, now)

    def add(self, cost: float) -> None:
        """A unit has ended."""
        self.done += cost
        self.last = time.monotonic()

    def since_last(self, left: float) -> float:
        """About what was done since a unit ended last; never all that is left."""
        spent = self.last - self.start
        rate = self.done / spent if self.done and spent else self.before
        return min(rate * (time.monotonic() - self.last), MAX_UNSEEN * left)


_PHASES: ContextVar[Phases | None] = ContextVar("phases", default=None)


@contextmanager
def shared_with_sources(phases: Phases) -> Iterator[None]:
    """Sources that are opened in the block run their work as units of these phases."""
    token = _PHASES.set(phases)
    try:
        yield
    finally:
        _PHASES.reset(token)


def run_phase(
    phase: str, part: str, function: UnitFunction, units: Sequence[Any], *, cost: float
) -> list[Result]:
    """Run units for a source: in the phases of the preparation that opens it, if there is one.

    ``part`` tells what is worked on from what the source works on before and after it.
    """
    phases = _PHASES.get()
    if phases is None:
        return [function(number, unit) for number, unit in enumerate(units)]
    return phases.run(phase, function, units, part=part, cost=cost)


@contextmanager
def errors_in_our_words() -> Iterator[None]:
    """What Polars raises in the block is raised as ``InputError``."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        raise InputError(polars_message(error)) from error


def polars_message(error: pl.exceptions.PolarsError) -> str:
    """What Polars says of a log, without its hints, which are for programmers."""
    first_line = str(error).splitlines()[0].partition(", hint:")[0]
    return f"cannot read the log: {first_line}"


def _mark(folder: Path, number: int) -> Path:
    return folder / f"done-{number}.json"


def _read_mark(path: Path) -> Result | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
