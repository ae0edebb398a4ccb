"""Options of ``prepare``: where interactions come from, how they become tasks."""

import math
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime

from greatmeta_dist.config.checks import (
    at_least,
    check_choices,
    choice,
    in_range,
    require_utf8,
)
from greatmeta_dist.errors import require
from greatmeta_dist.extensions import SOURCES

AUTO = "auto"
"""The name of a column that is found by its usual names."""
MAPPED_SOURCES = ("csv", "jsonl", "parquet")
"""Sources whose columns ``data.columns`` names."""
MISSING_VALUES = (
    "null", "\\N", "nan", "-nan", "None", "NA", "N/A", "#N/A", "#NA", "#N/A N/A", "<NA>", "NaT",
    "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", "(null)", "<null>", "nil", "undefined", "#NULL!",
)  # fmt: skip


@dataclass
class ColumnsConfig:
    """Column names of a csv, jsonl or parquet log; ``auto`` finds a column by its usual names."""

    user: str = AUTO
    item: str = AUTO
    rating: str | None = AUTO
    """null where the log only says which user met which item. Then each of these is a click with
    ``data.label=click``; with ``data.label=rating`` their number is the rating."""
    timestamp: str | None = AUTO
    """null where the log has no times, or none that matter."""
    event: str | None = AUTO
    """Where ``data.events`` names events: the column that says which event a row is."""


@dataclass
class DataConfig:
    """The logs, and how they become tasks."""

    source: str = choice("synthetic", SOURCES.names)
    """Format of the log. ``data=<preset>`` sets it, and what else suits the format."""
    path: str | None = None
    """Folder to read; for csv and parquet, the file of interactions. A local path or a URL.
    synthetic reads none."""
    from_store: str | None = field(default=None, metadata={"typed_as": "from"})
    """A store to grow: its log comes first, then that of ``data.path``. It stays as it is."""
    keep_log: bool = True
    """Whether the store keeps the checked rows of its log, so that ``data.from`` can grow it. They
    take about 20 bytes a row."""
    split: str | None = None
    """File that assigns users and interactions to splits: tab-separated columns part, user_id,
    role, item_id. null assigns users by a hash of their names."""
    split_at: str | None = None
    """Point in time before which all training rows lie, as ISO 8601 or as seconds since 1970. Users
    who come later are new: they are for tests. Within users, too, order is by time. null assigns
    users by a hash."""
    split_last: float | None = None
    """Share of the log's rows, the latest ones, that ``data.split_at`` is to leave out of training.
    Takes the place of ``data.split_at``."""
    seed: int = 0
    """Decides every random choice of the preparation."""

    valid_fraction: float = 0.1
    """Share of users held out for validation."""
    test_fraction: float = 0.2
    """Share of users held out for the user-cold test scenario."""
    warm_fraction: float = 0.1
    """Share of training users of whom some interactions are held out, for the warm scenario."""
    cold_item_fraction: float = 0.0
    """Share of items held out, for the item-cold and both-cold scenarios."""
    min_interactions: int = 3
    """Users with fewer interactions are left out."""
    max_interactions: int | None = None
    """Users with more interactions are left out. null sets no bound."""
    query_items: int | None = 10
    """Interactions of each user that form the query set, or less where a user has few:
    ``data.max_query_fraction``. The others form the support set."""
    max_query_fraction: float = 0.5
    """Largest share of a user's interactions that ``data.query_items`` may take. A query takes at
    least one, and leaves at least one to the support."""
    query_fraction: float | None = None
    """Share of each user's interactions that form the query set. Takes the place of
    ``data.query_items``, which must be null then."""
    query_by: str = choice("random", ("random", "time"))
    """Which of a user's interactions form the query set. ``time`` takes the latest ones."""
    max_support: int | None = 1024
    """Largest support set. Very active users' other interactions are not used. null keeps all."""
    support_by: str | None = field(default=None, metadata={"choices": ("latest", "random")})
    """Which interactions a support set keeps where a user has more than ``data.max_support``. null
    is latest where order is by time, else random."""

    label: str = choice("rating", ("rating", "click"))
    """What is predicted: a rating, or the probability of a click."""
    click_at: float | None = 4.0
    """click: lowest rating that counts as a click. null: every interaction is a click, and items
    that were not clicked are drawn, as ``data.negatives`` says."""
    negatives: int = 4
    """click, where every interaction is one: items drawn as not clicked for each interaction, out
    of those that the user has not met."""

    events: dict[str, float] = field(default_factory=dict)
    """Events of the log that count, each with its weight: ``{view: 1, cart: 2, purchase: 4}``. Rows
    of other events are left out. The weight is the rating of a row; it multiplies the rating where
    ``data.columns.rating`` names one. Empty takes every row, whatever its event."""
    repeats: str | None = field(
        default=None,
        metadata={"choices": ("latest", "first", "max", "sum", "mean", "count", "reject")},
    )
    """What becomes of several rows of a user and an item. ``latest`` and ``first`` keep one row,
    ``max``, ``sum`` and ``mean`` merge their ratings, ``count`` takes their number as the rating,
    ``reject`` keeps the latest and rejects the others. ``data.click_at`` is of what comes out. null
    is latest for ratings, max for clicks (clicked once is a click) and for ``data.events`` (the
    weightiest event), and count where the log has no ratings."""
    rating_range: list[float] | None = None
    """Lowest and highest valid rating: ``[lowest,highest]``. Rows with others are rejected. null
    accepts every rating of the log."""
    unrated_value: float | None = None
    """A number that stands for a missing rating. Such rows are left out and counted. null: there
    is no such number."""
    max_rejected_fraction: float = 0.01
    """Largest share of the log's rows that may be rejected. Past it the preparation stops."""
    max_rejected_feature_fraction: float = 0.1
    """Largest share of the rows of ``data.users_path``, or of ``data.items_path``, that may be at
    fault. A fault there costs the feature and never a rating. Past it the preparation stops."""
    min_value_count: int = 10
    """Training users, or items rated by them, that a feature value needs. A rarer value counts as
    unknown: the model would learn it by heart."""
    missing_values: list[str] = field(default_factory=lambda: list(MISSING_VALUES))
    """What stands in files for a missing value, in upper or lower case. An empty value always
    does."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """csv, jsonl, parquet: names of the log's columns for user, item, rating and timestamp.
    ``auto`` finds one by its usual names, such as userId or ts. Rating and timestamp may be null.
    ``event`` is read with ``data.events``."""
    separator: str = ","
    """csv: character between fields, or ``::``. ``\\t`` is a tab."""
    encoding: str = choice("utf-8", ("utf-8", "latin-1"))
    """csv: encoding of the files."""
    has_header: bool = True
    """csv: whether files start with the names of their columns. Else these are called 1, 2
    and so on."""
    users_path: str | None = None
    """csv, jsonl, parquet: file of user features. Its ending tells its format."""
    items_path: str | None = None
    """csv, jsonl, parquet: file of item features. Its ending tells its format."""
    user_features: dict[str, str] = field(default_factory=dict)
    """csv, jsonl, parquet: columns of ``data.users_path`` to read, each with its kind: ``token``,
    ``token_list`` or ``float``. Written ``{age: float, country: token}``."""
    item_features: dict[str, str] = field(default_factory=dict)
    """csv, jsonl, parquet: columns of ``data.items_path`` to read, each with its kind: ``token``,
    ``token_list`` or ``float``."""
    list_separator: str = "|"
    """csv, jsonl: separator inside a ``token_list`` field. A list in brackets needs none."""

    users: int = 2000
    """synthetic: number of users."""
    items: int = 1000
    """synthetic: number of items."""
    mean_interactions: float = 40.0
    """synthetic: mean interactions of a user. Few users have far more, many have fewer."""

    def __post_init__(self) -> None:
        check_choices("data", self)
        for name in ("path", "split", "users_path", "items_path"):
            path = getattr(self, name)
            if path is not None:
                require_utf8(f"data.{name}", path)
                setattr(self, name, os.path.expanduser(path))
        at_least("data.seed", self.seed, 0)
        self._check_shares()
        self._check_counts()
        self._check_ratings()
        self._check_files()
        self._check_time_split()

    def _check_shares(self) -> None:
        held_out = self.valid_fraction + self.test_fraction
        require(
            self.valid_fraction >= 0 and self.test_fraction >= 0 and held_out < 1,
            f"data.valid_fraction + data.test_fraction is {held_out:g}; it must be below 1",
        )
        for name in ("valid_fraction", "test_fraction", "warm_fraction", "cold_item_fraction"):
            in_range(f"data.{name}", getattr(self, name), 0, 1, is_open_above=True)
        for name in ("max_rejected_fraction", "max_rejected_feature_fraction"):
            in_range(f"data.{name}", getattr(self, name), 0, 1)
        in_range("data.max_query_fraction", self.max_query_fraction, 0, 1, is_open_below=True)
        if self.query_fraction is not None:
            in_range("data.query_fraction", self.query_fraction, 0, 1, is_open=True)
        require(
            (self.query_items is None) != (self.query_fraction is None),
            "data.query_items and data.query_fraction are both "
            f"{'unset' if self.query_items is None else 'set'}; set one and make the other null",
        )

    def _check_counts(self) -> None:
        for name in (
            "min_interactions",
            "min_value_count",
            "users",
            "items",
            "negatives",
        ):
            at_least(f"data.{name}", getattr(self, name), 1)
        for name in ("max_interactions", "query_items", "max_support"):
            if getattr(self, name) is not None:
                at_least(f"data.{name}", getattr(self, name), 1)
        at_least("data.mean_interactions", self.mean_interactions, 1)
        require(
            self.max_interactions is None or self.max_interactions >= self.min_interactions,
            f"data.max_interactions={self.max_interactions} is below "
            f"data.min_interactions={self.min_interactions}; no user has so many",
        )

    def _check_ratings(self) -> None:
        is_weighed = bool(self.events)
        require(
            self.columns.rating is not None
            or is_weighed
            or self.is_click
            or self.repeats_rule == "count",
            "data.columns.rating is null, and data.label is rating; name the column, set "
            "data.label=click, or count rows with data.repeats=count",
        )
        infinite = [name for name, weight in self.events.items() if not math.isfinite(weight)]
        require(
            not infinite,
            f"data.events weighs {', '.join(infinite)} with no finite number; expected one, as "
            "in data.events='{view: 1, purchase: 4}'",
        )
        require(
            is_weighed or self.columns.event in (None, AUTO),
            f"data.columns.event={self.columns.event} is set, and data.events names no event; set "
            "data.events='{view: 1, purchase: 4}', with the log's own events",
        )
        require(
            self.rating_range is None
            or (len(self.rating_range) == 2 and self.rating_range[0] < self.rating_range[1]),
            f"data.rating_range is {self.rating_range}; expected [lowest,highest]",
        )

    def _check_files(self) -> None:
        require(
            self.separator == "::" or (len(self.separator) == 1 and self.separator not in '"\r\n'),
            f"data.separator is {self.separator!r}; expected one character, \\t for a tab, or ::",
        )
        require(bool(self.list_separator), "data.list_separator is empty; expected a character")
        require(
            self.source != "synthetic" or self.path is None,
            f"data.path={self.path} is set, and data=synthetic reads no files; take the preset of "
            "that log, such as data=csv",
        )

    def _check_time_split(self) -> None:
        chosen = [
            f"data.{name}={value}"
            for name in ("split", "split_at", "split_last")
            if (value := getattr(self, name)) is not None
        ]
        require(
            len(chosen) < 2,
            f"{' and '.join(chosen)} are different ways to split; set one and make the others null",
        )
        if self.split_last is not None:
            in_range("data.split_last", self.split_last, 0, 1, is_open=True)
        require(
            self.split_at is None or self.split_seconds is not None,
            f"data.split_at is '{self.split_at}'; expected a time such as 2020-01-31 or "
            "2020-01-31T12:00:00Z, or seconds since 1970",
        )

    @property
    def split_seconds(self) -> float | None:
        """``split_at`` in seconds since 1970; None where it is unset, or no time."""
        if self.split_at is None:
            return None
        try:
            seconds = float(self.split_at)
            return seconds if math.isfinite(seconds) else None
        except ValueError:
            pass
        try:
            moment = datetime.fromisoformat(self.split_at)
        except ValueError:
            return None
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()

    @property
    def is_split_by_time(self) -> bool:
        """Whether a point in time decides who is trained on."""
        return self.split_at is not None or self.split_last is not None

    @property
    def needs_times(self) -> str | None:
        """The option for which every row needs a time; None where none does."""
        for name in ("split_at", "split_last"):
            if getattr(self, name) is not None:
                return f"data.{name}={getattr(self, name)}"
        return "data.query_by=time" if self.query_by == "time" else None

    @property
    def support_rule(self) -> str:
        """``support_by``, or what suits the query."""
        is_by_time = self.query_by == "time" or self.is_split_by_time
        return self.support_by or ("latest" if is_by_time else "random")

    @property
    def repeats_rule(self) -> str:
        """``repeats``, or what suits the log."""
        if self.repeats is not None:
            return self.repeats
        if self.is_click or self.events:
            return "max"
        return "count" if self.columns.rating is None else "latest"

    @property
    def has_ratings(self) -> bool:
        """Whether the log's ratings are read: it has some, and they are asked for."""
        return self.columns.rating is not None and not self.is_implicit

    @property
    def is_click(self) -> bool:
        return self.label == "click"

    @property
    def is_implicit(self) -> bool:
        """Whether the log holds clicks only, so that items not clicked must be drawn."""
        has_values = self.columns.rating is not None or bool(self.events)
        return self.is_click and (self.click_at is None or not has_values)
