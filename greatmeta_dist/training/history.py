"""``RUN/history.jsonl``: what happened to a run, over all its trainings.

A line is ``{"time", "step", "kind", "text"}``. Lines are only added, by rank 0 and by the process
that holds the run. TensorBoard shows the newest ones under ``system/events``.
"""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

HISTORY = "history.jsonl"
MAX_SHOWN = 40
"""Lines in TensorBoard's table, the newest first; of checkpoints only the newest few."""
MAX_SHOWN_CHECKPOINTS = 5

Kind = Literal[
    "start",
    "resume",
    "restart",
    "checkpoint",
    "damage",
    "death",
    "preemption",
    "growth",
    "stop",
    "failure",
    "done",
]
STARTS, ENDS = ("start", "resume", "restart"), ("stop", "failure", "done")
"""Kinds of events with which a training begins, and with which it ends."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a run."""

    time: str
    """UTC, ISO 8601, to the second."""
    step: int
    kind: Kind
    text: str


class History:
    """A run's events."""

    def __init__(self, run: Path):
        self._path = run / HISTORY

    def add(self, kind: Kind, step: int, text: str) -> None:
        """Write an event, as one line and at once, whoever else writes."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        line = json.dumps(asdict(Event(now, step, kind, " ".join(text.split()))))
        with self._path.open("ab") as file:
            # A process that was killed may have left half a line.
            start = b"" if self._ends_a_line() else b"\n"
            os.write(file.fileno(), start + line.encode() + b"\n")

    def events(self) -> list[Event]:
        """All events, the oldest first; a line that was not written whole counts for nothing."""
        events = []
        for line in self._path.read_text().splitlines() if self._path.exists() else ():
            try:
                events.append(Event(**json.loads(line)))
            except (ValueError, TypeError):
                continue
        return events

    @property
    def last_step(self) -> int:
        """The step of the newest event."""
        events = self.events()
        return events[-1].step if events else 0

    def kind_of_start(self, step: int) -> Kind:
        """What a training is that begins after a step.

        It is a restart where the one before did not say that it ended: it was killed, lost a
        worker, or made way for another group.
        """
        kinds = [event.kind for event in self.events() if event.kind in (*STARTS, *ENDS)]
        if kinds and kinds[-1] in STARTS:
            return "restart"
        return "resume" if step else "start"

    def table(self) -> str:
        """The newest events in Markdown."""
        shown, num_checkpoints = [], 0
        for event in reversed(self.events()):
            num_checkpoints += event.kind == "checkpoint"
            if event.kind != "checkpoint" or num_checkpoints <= MAX_SHOWN_CHECKPOINTS:
                shown.append(event)
        rows = [
            f"| {e.step} | {e.time} | **{e.kind}** | {_escaped(e.text)} |"
            for e in shown[:MAX_SHOWN]
        ]
        return "\n".join(("| step | time | event | |", "|---|---|---|---|", *rows))

    def _ends_a_line(self) -> bool:
        with self._path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if not size:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def _escaped(text: str) -> str:
    """Text that a cell of a Markdown table shows as it is."""
    for mark in "\\|*_`<[":
        text = text.replace(mark, f"\\{mark}")
    return text
