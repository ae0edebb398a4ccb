"""What became of a log's rows: the report that ``prepare`` leaves."""

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.advice import NO_NEW_USERS, advice
from greatmeta_dist.data.left_out import NOT_IN_SPLIT
from greatmeta_dist.data.summary import LogSummary

MAX_REASONS = 20
"""Reasons of rejected rows that are counted apart."""


@dataclass
class Report:
    """Counts of rows, tasks and values."""

    read: int = 0
    """Rows of the log. Each of them is kept, merged into another one (``repeats``), left out by a
    rule (``unrated``, ``other_events``, ``left_out_rows``, ``unused_rows``), or rejected."""
    read_earlier: int = 0
    """Those of them that are in the log of the store that grew (``data.from``)."""
    kept: int = 0
    """Rows that are in tasks, each counted once."""
    rejected: int = 0
    """Rows of the log that were rejected."""
    rejected_elsewhere: dict[str, int] = field(default_factory=dict)
    """Faults in the features of ``users`` and ``items``, and lines of the ``split`` file that name
    an interaction which the log does not hold. They cost no rating."""
    reasons: dict[str, int] = field(default_factory=dict)
    """All of these by reason, the most frequent first."""
    examples: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The first rejected row of each reason: its ``file``, ``line``, ``column`` and ``value``."""
    repeats: int = 0
    """Rows merged into another one of the same user and item, as ``data.repeats`` says."""
    unlisted_items: int = 0
    """Items of the log that the items' file does not list: known by their ratings alone."""
    unlisted_users: int = 0
    """Users of the log whom the users' file does not list: their features are unknown."""
    users: int = 0
    """Users of the log's good rows, as ``items`` and ``log_interactions``."""
    items: int = 0
    log_interactions: int = 0
    """What is left of the good rows once repeats are merged."""
    density: float = 0.0
    """Share of all pairs of a user and an item that the log has."""
    user_activity: dict[str, int] = field(default_factory=dict)
    """Interactions of a user: least, quantiles, most."""
    item_activity: dict[str, int] = field(default_factory=dict)
    """Interactions of an item, as ``user_activity``."""
    popular_shares: dict[str, float] = field(default_factory=dict)
    """Share of the interactions that the most popular 1% and 10% of the items have."""
    cold_items: int = 0
    """Items that no training row may have: held out, or new after the point in time."""
    untrained_items: int = 0
    """Items of the catalogue that no training row has, those included."""
    first_time: float | None = None
    """Of the log's rows, in seconds since 1970, as ``last_time``."""
    last_time: float | None = None
    time_unit: str | None = None
    """The unit of the log's times that are numbers: s, ms, µs or ns."""
    columns: dict[str, str | None] = field(default_factory=dict)
    """The log's columns for user, item, rating and timestamp, where ``data.columns`` is read."""
    not_used: dict[str, list[str]] = field(default_factory=dict)
    """Columns of each file that the store does not have."""
    hints: list[str] = field(default_factory=list)
    """What the log has that options could make use of, with what to type."""
    events: dict[str, int] = field(default_factory=dict)
    """With ``data.events``: rows of each event that the log has, the most frequent first."""
    other_events: int = 0
    """Rows of events that ``data.events`` does not name."""
    unrated: int = 0
    """Rows whose rating says that none was given (``data.unrated_value``)."""
    split_time: float | None = None
    """The point in time before which all training rows lie, where users are split by time."""
    left_out_users: dict[str, int] = field(default_factory=dict)
    """Users without a task, by the rule that leaves them out."""
    left_out_rows: dict[str, int] = field(default_factory=dict)
    """Their interactions."""
    unused_rows: dict[str, int] = field(default_factory=dict)
    """Other users' interactions that are in no task, by the reason."""
    advice: str | None = None
    """What to set where most users are left out."""
    tasks: dict[str, int] = field(default_factory=dict)
    """Tasks of each split."""
    interactions: dict[str, int] = field(default_factory=dict)
    """Interactions of each split."""
    rare_values: dict[str, int] = field(default_factory=dict)
    """Of each feature, the values that too few have for a row of their own."""
    is_new: bool = True
    """False where the store had been made the same way before."""

    @property
    def out_of_bounds(self) -> int:
        """Interactions of users whom the recipe leaves out."""
        return sum(n for rule, n in self.left_out_rows.items() if rule != NOT_IN_SPLIT)

    @property
    def not_in_split(self) -> int:
        """Interactions that the given split does not name."""
        return sum(c.get(NOT_IN_SPLIT, 0) for c in (self.left_out_rows, self.unused_rows))

    @property
    def unused(self) -> int:
        """Interactions of users with tasks that none of these takes."""
        return sum(n for rule, n in self.unused_rows.items() if rule != NOT_IN_SPLIT)

    def add_summary(self, summary: LogSummary, config: DataConfig) -> None:
        """Add what the buckets' summaries come to."""
        left_out = summary.left_out
        self.left_out_users, self.left_out_rows = dict(left_out.users), dict(left_out.rows)
        self.unused_rows = dict(+left_out.unused)
        self.kept = summary.num_interactions - left_out.num_rows - left_out.num_unused
        self.advice = advice(summary, config)
        if self.advice is None and config.is_split_by_time and "user_cold" not in self.tasks:
            self.advice = NO_NEW_USERS
        self.users, self.items = summary.num_users, summary.num_items
        self.log_interactions = summary.num_interactions
        self.density = summary.num_interactions / max(1, summary.num_users * summary.num_items)
        self.user_activity, self.item_activity = summary.user_quantiles(), summary.item_quantiles()
        self.popular_shares = {f"{p}%": summary.top_share(p / 100) for p in (1, 10)}
        if summary.first_time <= summary.last_time:
            self.first_time, self.last_time = summary.first_time, summary.last_time

    def add_rejects(self, rejected: pl.DataFrame) -> None:
        """Add the reasons why rows are rejected, and an example of each; rows are in order."""
        by_reason = rejected.group_by("reason", maintain_order=True)
        reasons = by_reason.agg(pl.len(), pl.exclude("reason").first())
        reasons = reasons.sort("len", "reason", descending=[True, False]).head(MAX_REASONS)
        self.reasons = {row["reason"]: row["len"] for row in reasons.iter_rows(named=True)}
        places = ("file", "line", "column", "value")
        self.examples = {
            row["reason"]: {name: row[name] for name in places}
            for row in reasons.iter_rows(named=True)
        }
