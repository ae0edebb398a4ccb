"""What a batch recommendation is asked for, by which model, and what comes of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greatmeta_dist.data.grouped_users import AskedCounts
from greatmeta_dist.data.manifest import Field
from greatmeta_dist.data.store import FeatureSpec, Store
from greatmeta_dist.recommend.loaded_model import LoadsModel


@dataclass(frozen=True)
class Request:
    """What is asked for; options of ``greatmeta recommend`` say more of each."""

    users: str
    out: Path
    k: int = 10
    exclude_seen: bool = True
    candidates: str | None = None
    new_items: bool = True
    items: str | None = None
    ratings: str | None = None
    explain: int = 0

    @property
    def is_one_file(self) -> bool:
        return self.out.suffix == ".parquet"


@dataclass(frozen=True)
class TrainedModel:
    """A run's model: what is known of it here, and how whoever works loads it."""

    load: LoadsModel
    catalogue: Store
    feature_spec: FeatureSpec
    identity: Sequence[Any]
    """Plain values that are others for another model."""

    @property
    def user_fields(self) -> list[Field]:
        """The users' features that the model reads."""
        return self.catalogue.fields("user", self.feature_spec)


@dataclass
class Summary:
    """What became of the users."""

    is_new: bool = True
    """False where the same recommendations were there before."""
    counts: AskedCounts = field(default_factory=AskedCounts)
    columns: dict[str, str | None] = field(default_factory=dict)
    """The log's columns, where ``data.columns`` is read."""
    is_list: bool = False
    """Whether nothing was known of any user."""
    rows: int = 0
    """Recommendations."""
    no_items: int = 0
    """Users who got none."""
    items: int = 0
    """Items that may be recommended."""
    candidates: int = 0
    """Of ``candidates``, distinct ones; ``unknown_candidates`` of them are no items."""
    unknown_candidates: int = 0
    added_items: int = 0
    """Items that the catalogue did not have."""
    unused_item_columns: list[str] = field(default_factory=list)
    """Of ``items``, columns that are no feature of the run's items."""
    new_item_ratings: int = 0
    """Ratings of items that training did not have, of which these were learnt."""
    beside: AskedCounts | None = None
    """What became of the rows of ``ratings``."""
    users_per_second: float = 0.0
    """Of those that were recommended to since this start."""
