"""``greatmeta prepare``: logs → store, with progress and a report."""

import time
from pathlib import Path

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.manifest import Field, read_manifest
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.rejects import REJECTS
from greatmeta_dist.data.report import Report
from greatmeta_dist.display import Display


def prepare_store(config: DataConfig, store: Path) -> None:
    """Prepare logs into a store, and say what was found in them."""
    display, start = Display(), time.monotonic()
    with display.bar("prepare", 100, "%") as bar:
        report = prepare(config, store, lambda stage, share: bar.update(int(100 * share), stage))
    if not report.is_new:
        display.say(f"{store} is already prepared from the same files in the same way")
    _say_rows(display, config.source, report, store)
    _say_store(display, report, store)
    display.say(f"store {store} is ready after {time.monotonic() - start:.1f} s")


def _say_rows(display: Display, source: str, report: Report, store: Path) -> None:
    """How many rows were read, kept, merged, rejected and left out, and why."""
    left_out = report.unrated + report.other_events + report.not_in_split
    left_out += report.out_of_bounds + report.unused
    display.say(
        f"{source}: {report.read} rows read, {report.kept} kept, {report.rejected} rejected, "
        f"{report.repeats} repeats merged, "
        f"{left_out} left out "
        f"({report.out_of_bounds} of users out of bounds, {report.not_in_split} not in the split, "
        f"{report.unused} more than tasks take, {report.unrated} unrated, {report.other_events} of "
        "other events)"
    )
    if report.events:
        events = ", ".join(f"{count} {event}" for event, count in report.events.items())
        display.say(f"  events: {events}")
    for hint in report.hints:
        display.say(f"  {hint}")
    for reason, count in report.reasons.items():
        display.say(f"  {count} × {reason} (see {store / REJECTS})")
    if report.repeats:
        display.say(f"  {report.repeats} repeats of a user and an item, merged (data.repeats)")
    if report.unlisted_items:
        display.say(f"  {report.unlisted_items} items are in no file of items: without features")
    if report.columns:
        display.say(f"  columns: {columns_text(report.columns)}")
    for name, columns in report.not_used.items():
        display.say(f"  not used of {name}: {', '.join(columns)}")


def columns_text(columns: dict[str, str | None]) -> str:
    """Which column of the log is what, as it is typed for ``data.columns``."""
    return ", ".join(f"{role}: {column or 'null'}" for role, column in columns.items())


def _say_store(display: Display, report: Report, store: Path) -> None:
    """What the store holds: users, features, ratings."""
    for split, count in report.tasks.items():
        display.say(f"  {split}: {count} users, {report.interactions[split]} interactions")
    manifest = read_manifest(store)
    for side in ("user", "item"):
        features = [_feature(f, report) for f in manifest.fields if f.side == side]
        display.say(f"  {side} features: {', '.join(features) or 'none'}")
    ratings = manifest.ratings
    display.say(
        f"  ratings from {ratings.lowest:g} to {ratings.highest:g}, mean {ratings.mean:.3g}"
    )


def _feature(field: Field, report: Report) -> str:
    """A feature, its values that have a row of their own, and how many are too rare for one."""
    rare = report.rare_values.get(field.name, 0)
    more = f", {rare} rare count as unknown" if rare else ""
    return f"{field.name} ({field.num_rows - 1} values{more})"
