"""Is a store what a plain reader makes of its log, and is every row accounted for?"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.fuzz.plain import (
    Interaction,
    Row,
    Task,
    by_age,
    draw_negatives,
    is_cold,
    merge_repeats,
    rule_of_user,
    split_user,
)
from benchmarks.fuzz.plain_time import (
    is_before,
    known_rows,
    plain_split_time,
    rule_by_time,
    split_user_by_time,
)
from benchmarks.fuzz.reader import PlainLog
from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.rejects import REJECTS
from greatmeta_dist.data.report import Report
from greatmeta_dist.data.store import FeatureSpec, Store

Place = tuple[str, int]
"""File, and line there."""
Labels = dict[str, dict[str, dict[str, dict[str, float]]]]
"""split → user → role → item → label."""


@dataclass
class Expected:
    """What a plain reader finds."""

    tasks: Labels = field(default_factory=lambda: defaultdict(dict))
    rejected: dict[Place, str] = field(default_factory=dict)
    num_repeats: int = 0
    left_out_users: Counter[str] = field(default_factory=Counter)
    left_out_rows: Counter[str] = field(default_factory=Counter)
    num_unused: int = 0
    num_kept: int = 0
    split_time: float | None = None


def expect(log: PlainLog, config: DataConfig) -> Expected:
    """What ``prepare`` should make of a log."""
    expected = Expected(rejected=dict(log.rejected))
    by_user: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in log.rows:
        by_user[row.user][row.item].append(row)
    catalogue = sorted({row.item for row in log.rows}, key=str.encode)
    cold = {item for item in catalogue if is_cold(item, config)}
    if config.is_split_by_time:
        expected.split_time = plain_split_time(log.rows, config)
        seen = {row.item for row in log.rows if is_before(row, expected.split_time)}
        cold |= {*catalogue} - seen
    pools = {is_in: [i for i in catalogue if (i in cold) == is_in] for is_in in (True, False)}
    for user, by_item in by_user.items():
        _add_user(expected, user, by_item, cold, pools, config)
    return expected


def _add_user(
    expected: Expected,
    user: str,
    by_item: dict[str, list[Row]],
    cold: set[str],
    pools: dict[bool, list[str]],
    config: DataConfig,
) -> None:
    has_time = config.columns.timestamp is not None
    point = expected.split_time
    counted = by_item
    if point is not None:
        counted = {item: known_rows(rows, point) for item, rows in by_item.items()}
    merged = [merge_repeats(rows, config, has_time=has_time) for rows in counted.values()]
    _count_repeats(expected, by_item, counted, config, has_time=has_time)
    if point is None:
        num_warm = sum(one.item not in cold for one in merged)
        num_rows = sum(map(len, by_item.values()))
        rule = rule_of_user(num_rows, len(merged), num_warm, config)
        tasks = {} if rule else split_user(user, merged, config)
    else:
        rows = [row for rows in by_item.values() for row in rows]
        num_before = sum(is_before(row, point) for row in rows)
        rule = rule_by_time(num_before or len(rows), merged, cold, point, config)
        tasks = {} if rule else split_user_by_time(user, merged, cold, point, config)
    used = {i for task in tasks.values() for role in task.values() for i in role}
    expected.num_kept += len(used)
    left_out = len(merged) - len(used)
    if not rule:
        expected.num_unused += left_out
    else:
        expected.left_out_users[rule] += 1
        expected.left_out_rows[rule] += left_out
    drawn = {}
    if config.is_implicit:
        drawn = draw_negatives(user, tasks, set(by_item), pools, config)
    _add_labels(expected, user, merged, tasks, drawn)


def _count_repeats(
    expected: Expected,
    by_item: dict[str, list[Row]],
    counted: dict[str, list[Row]],
    config: DataConfig,
    *,
    has_time: bool,
) -> None:
    """Count the rows that are merged into another one; ``counted`` are those that decide it."""
    for item, rows in by_item.items():
        if config.repeats_rule != "reject":
            expected.num_repeats += len(rows) - 1
            continue
        kept = by_age(counted[item], has_time=has_time)[-1]
        for row in rows:
            if row is not kept:
                reason = "repeats a user and item; the latest is kept"
                if config.is_split_by_time:
                    reason += ", of those before the point in time if there are any"
                expected.rejected[row.at] = reason


def _add_labels(
    expected: Expected,
    user: str,
    merged: list[Interaction],
    tasks: dict[str, Task],
    drawn: dict[str, Task],
) -> None:
    label = {one.item: one.label for one in merged}
    for split, task in tasks.items():
        expected.tasks[split][user] = {
            role: {i: float(np.float32(label[i])) for i in items}
            | dict.fromkeys(drawn.get(split, {}).get(role, []), 0.0)
            for role, items in task.items()
        }


def labels_of(store: Store) -> Labels:
    """All tasks of a store."""
    tokens = store.item_tokens()
    labels: Labels = {}
    for split in store.manifest.splits:
        stored = store.split(split, FeatureSpec(has_item_id=True, list_pooling="mean"))
        labels[split] = {user: {} for user in stored.user}
        for role in ("support", "query"):
            items = getattr(stored.tasks, f"{role}_item")
            ratings = getattr(stored.tasks, f"{role}_label")
            for k, user in enumerate(stored.user):
                rows = slice(items.offsets[k], items.offsets[k + 1])
                pairs = zip(items.values[rows], ratings.values[rows], strict=True)
                labels[split][user][role] = {tokens[i]: float(r) for i, r in pairs}
    return labels


def require_equal(folder: Path, report: Report, log: PlainLog, config: DataConfig) -> None:
    """Raise ``AssertionError`` where a store or its report differs from what the reader finds."""
    expected = expect(log, config)
    rejects = pl.read_parquet(folder / REJECTS).select("file", "line", "reason")
    assert len(rejects) == report.rejected, "as many rejects as the report says"
    found = {(file, line): reason for file, line, reason in rejects.iter_rows()}
    assert found == expected.rejected, _first_difference(found, expected.rejected)
    counts = {
        "read": (report.read, log.num_read),
        "kept": (report.kept, expected.num_kept),
        "unrated": (report.unrated, log.num_unrated),
        "other events": (report.other_events, log.num_other_events),
        "repeats": (report.repeats, expected.num_repeats),
        "users left out": (report.left_out_users, expected.left_out_users),
        "rows left out": (report.left_out_rows, expected.left_out_rows),
        "unused": (report.unused, expected.num_unused),
        "point in time": (report.split_time, expected.split_time),
    }
    for name, (reported, counted) in counts.items():
        assert reported == counted, f"{name}: {reported}, expected {counted}"
    left_out = report.unrated + report.other_events + report.not_in_split
    left_out += report.out_of_bounds + report.unused
    accounted = report.kept + report.repeats + left_out + report.rejected
    assert report.read == accounted, f"{report.read} rows read, {accounted} accounted for"
    labels = labels_of(Store(folder))
    assert labels.keys() == expected.tasks.keys(), f"splits {[*labels]}, not {[*expected.tasks]}"
    for split, tasks in labels.items():
        _require_equal_tasks(split, tasks, expected.tasks[split], config)


def _require_equal_tasks(split: str, found: dict, expected: dict, config: DataConfig) -> None:
    assert found.keys() == expected.keys(), f"{split}: {found.keys() ^ expected.keys()}"
    # Sums are added in another order.
    tolerance = 1e-6 if config.repeats_rule in ("sum", "mean") else 0.0
    for user, task in found.items():
        for role, labels in task.items():
            others = expected[user][role]
            assert labels.keys() == others.keys(), f"{split}, {user}, {role}: other items"
            for item, label in labels.items():
                error = abs(label - others[item])
                assert error <= tolerance * max(1.0, abs(label)), f"{split}, {user}, {item}"


def _first_difference(found: dict[Place, str], expected: dict[Place, str]) -> str:
    lines = sorted(k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k))
    return "; ".join(f"{k}: {found.get(k)}, not {expected.get(k)}" for k in lines[:3])
