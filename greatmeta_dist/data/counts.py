"""Counts of the training users' ratings, bucket by bucket."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from greatmeta_dist.data.manifest import Ratings
from greatmeta_dist.data.split import History, SplitRows
from greatmeta_dist.data.tables import read_table


@dataclass
class TrainingCounts:
    """Sums over the training users' ratings; buckets are added in order."""

    item_count: NDArray[np.int64]
    """[items] ratings of each item."""
    item_sum: NDArray[np.float64]
    """[items] their sum."""
    item_squares: NDArray[np.float64]
    """[items] the sum of their squares."""
    users: list[pl.Series] = field(default_factory=list)
    """Tokens of the training users, a series for each bucket."""
    lowest: float = np.inf
    highest: float = -np.inf

    @classmethod
    def zeros(cls, num_items: int) -> "TrainingCounts":
        return cls(np.zeros(num_items, np.int64), np.zeros(num_items), np.zeros(num_items))

    def add(self, history: History, rows: SplitRows) -> None:
        """Count one bucket's training rows."""
        if not len(rows):
            return
        item, rating = rows.item, rows.rating
        self.item_count += np.bincount(item, minlength=len(self.item_count))
        self.item_sum += np.bincount(item, rating, len(self.item_sum))
        self.item_squares += np.bincount(item, rating**2, len(self.item_sum))
        self.users.append(history.token.gather(np.unique(rows.user)))
        self.lowest = min(self.lowest, float(rating.min()))
        self.highest = max(self.highest, float(rating.max()))

    def write(self, path: Path) -> None:
        """Write the counts of the items that have any, and the lowest and highest rating."""
        item = np.flatnonzero(self.item_count)
        columns = {
            "item": item,
            "count": self.item_count[item],
            "sum": self.item_sum[item],
            "squares": self.item_squares[item],
        }
        table = pl.DataFrame(columns).with_columns(lowest=self.lowest, highest=self.highest)
        table.write_ipc(path)

    def add_file(self, path: Path) -> None:
        """Add what ``write`` wrote, but for the users."""
        table = read_table(path)
        if not len(table):
            return
        item = table["item"].to_numpy()
        self.item_count[item] += table["count"].to_numpy()
        self.item_sum[item] += table["sum"].to_numpy()
        self.item_squares[item] += table["squares"].to_numpy()
        self.lowest = min(self.lowest, table["lowest"][0])
        self.highest = max(self.highest, table["highest"][0])

    @property
    def mean(self) -> float:
        return float(self.item_sum.sum()) / int(self.item_count.sum())

    def ratings(self, rating_range: list[float] | None) -> Ratings:
        """Their summary, with the range as given, or as found."""
        lowest, highest = rating_range or (self.lowest, self.highest)
        count = int(self.item_count.sum())
        variance = max(float(self.item_squares.sum()) / count - self.mean**2, 0.0)
        return Ratings(float(lowest), float(highest), self.mean, variance**0.5, count)
