"""What ``prepare`` says of a log and its store: a page that a person reads."""

from collections.abc import Iterator
from pathlib import Path

from greatmeta_dist.data.manifest import Field, Manifest
from greatmeta_dist.data.rejects import REJECTS
from greatmeta_dist.data.report import Report
from greatmeta_dist.data.split_time import iso_time

MAX_REASONS, MAX_RULES, MAX_FILES = 4, 3, 2
"""Reasons of rejected rows, rules that leave rows out, and files with unused columns."""
MAX_WIDTH = 40
"""Characters of a rejected value, or of a list of columns, that are shown."""
LABEL_WIDTH = 10


def report_lines(report: Report, manifest: Manifest, store: Path) -> Iterator[str]:
    """Less than 40 lines: what the log is like, where its rows went, and what the store holds."""
    yield from _log_lines(report)
    yield from _row_lines(report)
    yield from _event_lines(report)
    yield from _reject_lines(report, store)
    yield from _left_out_lines(report)
    yield from _store_lines(report, manifest)


def columns_text(columns: dict[str, str | None]) -> str:
    """Which column of the log is what, as it is typed for ``data.columns``."""
    return ", ".join(f"{role}: {column or 'null'}" for role, column in columns.items())


def _log_lines(report: Report) -> Iterator[str]:
    if report.columns:
        yield _line("columns", columns_text(report.columns))
    for name, columns in list(report.not_used.items())[:MAX_FILES]:
        yield _line("not used", f"{_shortened(', '.join(columns))} of {name}")
    if report.user_activity:
        yield from _aligned(
            ["rows each", "", *report.user_activity],
            ["users", f"{report.users:,}", *_numbers(report.user_activity)],
            ["items", f"{report.items:,}", *_numbers(report.item_activity)],
        )
    shares = " and ".join(f"{s:.0%} by the top {top}" for top, s in report.popular_shares.items())
    yield _line("density", f"{report.density:.3%} of all pairs; {shares} of the items")
    if report.first_time is not None and report.last_time is not None:
        unit = f", from numbers of {report.time_unit}" if report.time_unit else ""
        span = f"{iso_time(report.first_time)} to {iso_time(report.last_time)}"
        yield _line("times", span + unit)
    if report.split_time is not None:
        yield _line("split at", f"{iso_time(report.split_time)}: training rows lie before it")


def _row_lines(report: Report) -> Iterator[str]:
    """Every row that was read is in one of these."""
    num_left_out = sum(report.left_out_rows.values())
    num_unused = sum(report.unused_rows.values())
    num_users = sum(report.left_out_users.values())
    earlier = f", {report.read_earlier:,} of them before (data.from)" if report.read_earlier else ""
    lines = [
        (report.read, f"rows read{earlier}"),
        (report.kept, "kept, in tasks"),
        (report.repeats, "repeats of a user and an item, merged (data.repeats)"),
        (
            num_left_out,
            f"left out, of users without a task ({num_users:,})",
        ),
        (num_unused, "left out, of users with tasks"),
        (report.unrated, "left out, unrated (data.unrated_value)"),
        (report.other_events, "left out, of other events (data.events)"),
        (report.rejected, "rejected"),
    ]
    width = len(f"{report.read:,}")
    for k, (count, text) in enumerate(lines):
        if count or k in (0, 1, len(lines) - 1):
            yield _line("" if k else "rows", f"{count:>{width},}  {text}")


def _event_lines(report: Report) -> Iterator[str]:
    if report.events:
        events = ", ".join(f"{count:,} {event}" for event, count in report.events.items())
        yield _line("events", events)
    for hint in report.hints:
        yield _line("hint", hint)


def _reject_lines(report: Report, store: Path) -> Iterator[str]:
    """Why rows were rejected, each with an example."""
    reasons = list(report.reasons.items())
    for reason, count in reasons[:MAX_REASONS]:
        yield f"  {count:,} × {reason}{_example(report.examples.get(reason))}"
    if reasons:
        num_more = len(reasons) - MAX_REASONS
        more = f"{num_more} more reasons; " if num_more > 0 else ""
        yield f"  {more}all rejected rows: {store / REJECTS}"
    unlisted = {"items": report.unlisted_items, "users": report.unlisted_users}
    if any(unlisted.values()):
        counts = " and ".join(f"{number:,} {what}" for what, number in unlisted.items() if number)
        yield f"  {counts} are in no file of features: known by their ratings alone"


def _example(row: dict[str, object] | None) -> str:
    if row is None:
        return ""
    return f": {row['file']}, line {row['line']}, '{_shortened(str(row['value'] or ''))}'"


def _left_out_lines(report: Report) -> Iterator[str]:
    """Which rules leave users out, and what to set where these are most."""
    rules = sorted(report.left_out_users.items(), key=lambda rule: -rule[1])
    for rule, count in rules[:MAX_RULES]:
        yield f"  users: {count:,} with {report.left_out_rows[rule]:,} rows left out: {rule}"
    unused = sorted(report.unused_rows.items(), key=lambda rule: -rule[1])
    for rule, count in unused[: MAX_RULES - 1]:
        yield f"  rows: {count:,} of users with tasks left out: {rule}"
    if report.advice:
        yield f"  {report.advice}"


def _store_lines(report: Report, manifest: Manifest) -> Iterator[str]:
    """The tasks of each split, the features, and the ratings."""
    yield from _aligned(
        ["tasks", "users", "rows"],
        *(
            [split, f"{count:,}", f"{report.interactions[split]:,}"]
            for split, count in report.tasks.items()
        ),
    )
    cold = f"{report.cold_items:,} items are cold: none of their rows is trained on"
    if report.cold_items:
        yield _line("cold", cold)
    for side in ("user", "item"):
        features = [_feature(f, report) for f in manifest.fields if f.side == side]
        if features:
            yield f"{side} features: {', '.join(features)}"
    ratings = manifest.ratings
    yield _line(
        "ratings", f"{ratings.lowest:g} to {ratings.highest:g}, mean {ratings.mean:.3g} in training"
    )


def _feature(field: Field, report: Report) -> str:
    """A feature, its values that have a row of their own, and how many are too rare for one."""
    rare = report.rare_values.get(field.name, 0)
    more = f", {rare:,} rare count as unknown" if rare else ""
    return f"{field.name} ({field.num_rows - 1:,} values{more})"


def _aligned(*rows: list[str]) -> Iterator[str]:
    """A small table: labels to the left, numbers to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        yield _line(row[0], "  ".join(numbers))


def _numbers(quantiles: dict[str, int]) -> list[str]:
    return [f"{number:,}" for number in quantiles.values()]


def _line(label: str, text: str) -> str:
    return f"{label:<{LABEL_WIDTH}}{text}".rstrip()


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_WIDTH else f"{text[: MAX_WIDTH - 1]}…"
