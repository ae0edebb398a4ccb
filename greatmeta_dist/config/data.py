"""Options of ``prepare``: where interactions come from, how they become tasks."""

from dataclasses import dataclass, field

from greatmeta_dist.config.checks import at_least, in_range, one_of
from greatmeta_dist.errors import require
from greatmeta_dist.extensions import SOURCES


@dataclass
class ColumnsConfig:
    """Column names of a csv or parquet log."""

    user: str = "user"
    item: str = "item"
    rating: str | None = "rating"
    """None where the log says only who met what; needs ``data.label=click``."""
    timestamp: str | None = None
    """None where the log has no times."""


@dataclass
class DataConfig:
    """Where interactions come from and how they become tasks (``prepare``)."""

    source: str = "synthetic"
    """A preset of the ``data`` group, or a source that an installed package adds."""
    path: str | None = None
    """Folder (or, for csv and parquet, the interactions file) to read; local or a URL."""
    split: str | None = None
    """TSV ``part user_id role item_id`` that says which interaction goes where; else by hash."""
    seed: int = 0
    """Decides every random choice of the preparation."""

    valid_fraction: float = 0.1
    """Share of users held out for validation."""
    test_fraction: float = 0.2
    """Share of users held out for the user-cold scenario."""
    warm_fraction: float = 0.1
    """Share of training users who also keep some interactions back for the warm scenario."""
    cold_item_fraction: float = 0.0
    """Share of items held out; gives the item-cold and both-cold scenarios."""
    min_interactions: int = 13
    """Users with fewer interactions are left out."""
    max_interactions: int | None = None
    """Users with more are left out."""
    query_items: int | None = 10
    """Query rows of each user; the rest is support."""
    query_fraction: float | None = None
    """Query share of each user's interactions, in place of ``query_items``."""
    query_by: str = "random"
    """Which of a user's interactions are the query: ``random``, or the latest by ``time``."""
    max_support_items: int | None = None
    """Keep at most this many support rows (random, or the latest by time)."""

    label: str = "rating"
    """What is predicted: the ``rating``, or the chance of a ``click``."""
    click_at: float | None = 4.0
    """click: ratings from this on are clicks, lower ones are not. None: every interaction is a
    click, and others are drawn."""
    negatives: int = 4
    """click, where every interaction is one: for each, this many items that the user has not met
    are drawn as not clicked."""

    rating_range: list[float] | None = None
    """Lowest and highest valid rating; others are rejected. None takes what the log holds."""
    unrated_value: float | None = None
    """A rating that means none was given; such rows are left out and counted."""
    max_rejected_fraction: float = 0.01
    """Past this share of rejected rows the preparation stops."""
    min_value_count: int = 10
    """A feature value of fewer training users, or of fewer items that these rated, counts as
    unknown to the model: it says hardly more than a name, and would be learnt by heart."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """csv, parquet: what the log's columns are called: ``{user: uid, item: iid, …}``."""
    separator: str = ","
    """csv: field separator."""
    encoding: str = "utf-8"
    """csv: ``utf-8`` or ``latin-1``."""
    users_path: str | None = None
    """csv, parquet: a file of user features."""
    items_path: str | None = None
    """csv, parquet: a file of item features."""
    user_features: dict[str, str] = field(default_factory=dict)
    """csv, parquet: kind of each user feature column: ``token``, ``token_list`` or ``float``."""
    item_features: dict[str, str] = field(default_factory=dict)
    """csv, parquet: kind of each item feature column."""
    list_separator: str = "|"
    """csv: separator inside a ``token_list``."""

    users: int = 2000
    """synthetic: number of users."""
    items: int = 1000
    """synthetic: number of items."""
    mean_interactions: float = 40.0
    """synthetic: mean interactions of a user; activity is long-tailed."""

    def __post_init__(self) -> None:
        held_out = self.valid_fraction + self.test_fraction
        require(
            self.valid_fraction >= 0 and self.test_fraction >= 0 and held_out < 1,
            f"data.valid_fraction + data.test_fraction is {held_out:g}; it must be below 1",
        )
        one_of("data.source", self.source, tuple(SOURCES.names()))
        for name in ("valid_fraction", "test_fraction", "warm_fraction", "cold_item_fraction"):
            in_range(f"data.{name}", getattr(self, name), 0, 1, is_open_above=True)
        in_range("data.max_rejected_fraction", self.max_rejected_fraction, 0, 1)
        one_of("data.label", self.label, ("rating", "click"))
        require(
            self.columns.rating is not None or self.label == "click",
            "data.columns.rating is null, and data.label is rating; name the column, or set "
            "data.label=click",
        )
        for name in (
            "min_interactions",
            "min_value_count",
            "users",
            "items",
            "negatives",
        ):
            at_least(f"data.{name}", getattr(self, name), 1)
        for name in ("max_interactions", "query_items", "max_support_items"):
            if getattr(self, name) is not None:
                at_least(f"data.{name}", getattr(self, name), 1)
        if self.query_fraction is not None:
            in_range("data.query_fraction", self.query_fraction, 0, 1, is_open=True)
        at_least("data.mean_interactions", self.mean_interactions, 1)
        at_least("data.seed", self.seed, 0)
        require(
            (self.query_items is None) != (self.query_fraction is None),
            "data.query_items and data.query_fraction are both "
            f"{'unset' if self.query_items is None else 'set'}; set one and make the other null",
        )
        require(
            self.query_by in ("random", "time"),
            f"data.query_by is '{self.query_by}'; expected random or time",
        )
        require(
            self.encoding in ("utf-8", "latin-1"),
            f"data.encoding is '{self.encoding}'; expected utf-8 or latin-1",
        )
        require(
            self.rating_range is None
            or (len(self.rating_range) == 2 and self.rating_range[0] < self.rating_range[1]),
            f"data.rating_range is {self.rating_range}; expected [lowest,highest]",
        )
        require(
            len(self.separator) == 1 and self.separator not in '"\r\n',
            f"data.separator is {self.separator!r}; expected one character, or \\t for a tab",
        )
        require(bool(self.list_separator), "data.list_separator is empty; expected a character")
        require(
            self.max_interactions is None or self.max_interactions >= self.min_interactions,
            f"data.max_interactions={self.max_interactions} is below "
            f"data.min_interactions={self.min_interactions}; no user has so many",
        )

    @property
    def is_click(self) -> bool:
        return self.label == "click"

    @property
    def is_implicit(self) -> bool:
        """Whether the log says what was met, and nothing of what was not."""
        return self.is_click and (self.click_at is None or self.columns.rating is None)
