"""``greatmeta inspect``: what a log's files hold, and how ``prepare`` would read them."""

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.inspect import Column, Inspection, inspect_log
from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError

EXAMPLE_WIDTH = 24


def inspect_files(config: DataConfig) -> None:
    """Show columns, their types and examples, what they are read as, and what would be rejected.

    Raises ``InputError`` where the log cannot be read as the options say, after what there is was
    shown.
    """
    display, found = Display(), inspect_log(config)
    for file in dict.fromkeys(column.file for column in found.columns):
        display.say(file)
        columns = [column for column in found.columns if column.file == file]
        widths = [max(len(getattr(c, name)) for c in columns) for name in ("name", "type")]
        for column in columns:
            display.say(_line(column, widths))
    if found.problem is not None:
        raise InputError(found.problem)
    for hint in found.hints:
        display.say(hint)
    _say_rejects(display, found)


def _line(column: Column, widths: list[int]) -> str:
    name, kind = column.name.ljust(widths[0]), column.type.ljust(widths[1])
    examples = ", ".join(_shortened(example) for example in column.examples)
    read_as = f"→ {column.read_as}" if column.read_as else ""
    shown = "; ".join(part for part in (read_as, examples and f"such as {examples}") if part)
    return f"  {name}  {kind}  {shown}".rstrip()


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= EXAMPLE_WIDTH else f"{text[: EXAMPLE_WIDTH - 1]}…"


def _say_rejects(display: Display, found: Inspection) -> None:
    times = f", times in {found.time_unit}" if found.time_unit else ""
    display.say(
        f"first {found.num_rows} rows: {len(found.rejects)} rejected, {found.num_unrated} unrated, "
        f"{found.num_other_events} of other events{times}"
    )
    if found.events:
        display.say("  events: " + ", ".join(f"{n} {event}" for event, n in found.events.items()))
    for (reason,), rows in found.rejects.group_by("reason", maintain_order=True):
        row = rows.row(0, named=True)
        display.say(
            f"  {len(rows)} × {reason}; the first: {row['file']}, line {row['line']}: "
            f"'{_shortened(row['value'] or '')}'"
        )
