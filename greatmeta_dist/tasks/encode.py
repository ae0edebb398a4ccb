"""Split interactions → record batches of tasks and items, and what training users' ratings say."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from greatmeta_dist.tasks.batch import Ragged, offsets_of
from greatmeta_dist.tasks.groups import Grouping
from greatmeta_dist.tasks.split import uniform_hash
from greatmeta_dist.tasks.store import Ratings, list_array
from greatmeta_dist.tasks.vocabulary import Vocabulary


@dataclass
class TrainingStatistics:
    """Ratings of the training users, added up bucket by bucket in order."""

    item_count: NDArray[np.int64]
    item_sum: NDArray[np.float64]
    users: list[pl.Series] = field(default_factory=list)
    lowest: float = np.inf
    highest: float = -np.inf
    squares: float = 0.0

    @classmethod
    def empty(cls, num_items: int) -> "TrainingStatistics":
        return cls(np.zeros(num_items, np.int64), np.zeros(num_items))

    def add(self, train: pl.DataFrame) -> None:
        """Count in one bucket's training interactions."""
        if not len(train):
            return
        item, rating = train["item"].to_numpy(), train["rating"].to_numpy()
        self.item_count += np.bincount(item, minlength=len(self.item_count))
        self.item_sum += np.bincount(item, rating, len(self.item_sum))
        self.users.append(train["user"].unique(maintain_order=True))
        self.lowest = min(self.lowest, float(rating.min()))
        self.highest = max(self.highest, float(rating.max()))
        self.squares += float((rating**2).sum())

    def ratings(self, given_range: list[float] | None) -> Ratings:
        """Their summary, with the range as given or as found."""
        low, high = given_range or (self.lowest, self.highest)
        count = int(self.item_count.sum())
        mean = float(self.item_sum.sum()) / count
        variance = max(self.squares / count - mean**2, 0.0)
        return Ratings(float(low), float(high), mean, variance**0.5, count)


def encode_tasks(
    rows: pl.DataFrame,
    users: pl.DataFrame | None,
    vocabularies: Sequence[Vocabulary],
    grouping: Grouping,
    *,
    seed: int,
) -> pa.RecordBatch:
    """One part's tasks of a bucket, users in an order that their tokens alone decide."""
    tokens = rows["user"].unique(maintain_order=True)
    order = np.argsort(uniform_hash(tokens, seed, "order"), kind="stable")
    position = pl.DataFrame({"user": tokens[order], "position": np.arange(len(tokens))})
    rows = rows.join(position, on="user").sort("position", maintain_order=True)
    columns: dict[str, pa.Array] = {"user": pa.array(position["user"].to_list(), pa.string())}
    sets = {}
    for role in ("support", "query"):
        chosen = rows.filter(pl.col("role") == role)
        offsets = offsets_of(np.bincount(chosen["position"].to_numpy(), minlength=len(tokens)))
        sets[role] = Ragged(chosen["item"].to_numpy(), offsets)
        rating = Ragged(chosen["rating"].to_numpy().astype(np.float32), offsets)
        columns[f"{role}_item"] = list_array(sets[role], pa.int32())
        columns[f"{role}_rating"] = list_array(rating, pa.float32())
    user_rows = position.select(id="user")
    if users is not None:
        user_rows = user_rows.join(users, on="id", how="left", maintain_order="left")
    columns |= _feature_columns(user_rows, "user", vocabularies)
    columns["group"] = pa.array(grouping.of(sets["support"], user_rows), pa.int32())
    return pa.RecordBatch.from_pydict(columns)


def encode_items(
    items: pl.DataFrame, vocabularies: Sequence[Vocabulary], statistics: TrainingStatistics
) -> pa.RecordBatch:
    """The catalogue: token, features, and the training users' ratings of each item."""
    columns = {
        "item": pa.array(items["id"].to_list(), pa.string()),
        "train_count": pa.array(statistics.item_count, pa.int64()),
        "train_sum": pa.array(statistics.item_sum, pa.float64()),
        **_feature_columns(items, "item", vocabularies),
    }
    return pa.RecordBatch.from_pydict(columns)


def _feature_columns(
    entities: pl.DataFrame, side: str, vocabularies: Sequence[Vocabulary]
) -> dict[str, pa.Array]:
    return {
        f"feature:{v.field.name}": list_array(v.encode(entities[v.field.name]), pa.int32())
        for v in vocabularies
        if v.field.side == side
    }
