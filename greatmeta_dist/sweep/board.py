"""What a person sees of a sweep: a line for each job that starts or ends, and how far all are."""

import time
from types import TracebackType

from rich.live import Live
from rich.table import Table
from rich.text import Text

from greatmeta_dist.display import Display

SECONDS_BETWEEN_LINES = 60.0
"""Where output is no terminal; each job's own lines are in its log."""


class Board:
    """Lines of a sweep; on a terminal the running jobs below them."""

    def __init__(self, display: Display, total: int, done: int) -> None:
        self._display, self._total, self._done = display, total, done
        is_terminal = display.console.is_terminal
        self._live = Live(console=display.console, transient=True) if is_terminal else None
        self._last_line = time.monotonic()

    def __enter__(self) -> "Board":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        self._display.say(text)

    def started(self, name: str) -> None:
        """Say that a job has started."""
        self.say(f"started  {name}")

    def ended(self, kind: str, name: str, detail: str) -> None:
        """Say how a job ended."""
        self._done += 1
        self.say(f"{kind:<8} {name}{f': {detail}' if detail else ''}  ({self._count})")

    @property
    def _count(self) -> str:
        return f"{self._done} of {self._total}"

    def show(self, running: dict[str, str]) -> None:
        """Show the last line of each job that runs."""
        if self._live is not None:
            self._live.update(self._table(running))
        elif running and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            for name, line in running.items():
                self.say(f"running  {name}{f': {line}' if line else ''}")

    def _table(self, running: dict[str, str]) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_row(Text(f"{self._count} jobs, {len(running)} running", style="bold"))
        for name, line in running.items():
            table.add_row(Text(name), Text(line))
        return table
