"""What became of a log's rows: the report that ``prepare`` leaves."""

from dataclasses import dataclass, field


@dataclass
class Report:
    """Counts of rows, tasks and values."""

    read: int = 0
    """Rows of the log. Each of them is kept, merged into another one (``repeats``), left out by a
    rule (``unrated``, ``other_events``, ``out_of_bounds``, ``not_in_split``, ``unused``), or
    rejected."""
    kept: int = 0
    """Rows that are in tasks, each counted once."""
    rejected: int = 0
    """Rows of the log that were rejected."""
    rejected_elsewhere: dict[str, int] = field(default_factory=dict)
    """Faults in the features of ``users`` and ``items``, and lines of the ``split`` file that name
    an interaction which the log does not hold. They cost no rating."""
    reasons: dict[str, int] = field(default_factory=dict)
    """All of these by reason, the most frequent first."""
    repeats: int = 0
    """Rows merged into another one of the same user and item, as ``data.repeats`` says."""
    unlisted_items: int = 0
    """Items of the log that the items' file does not list: known by their ratings alone."""
    unlisted_users: int = 0
    """Users of the log whom the users' file does not list: their features are unknown."""
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
    out_of_bounds: int = 0
    """Interactions of users with too few or too many of them, or no more than a query takes."""
    not_in_split: int = 0
    """Interactions that the given split does not name."""
    unused: int = 0
    """Interactions of users with tasks that none of these takes: more than a support may hold, or
    than a query of held-out items."""
    tasks: dict[str, int] = field(default_factory=dict)
    """Tasks of each split."""
    interactions: dict[str, int] = field(default_factory=dict)
    """Interactions of each split."""
    rare_values: dict[str, int] = field(default_factory=dict)
    """Of each feature, the values that too few have for a row of their own."""
    is_new: bool = True
    """False where the store had been made the same way before."""
