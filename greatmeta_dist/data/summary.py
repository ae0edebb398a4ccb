"""What a log is like, counted bucket by bucket: activity, popularity, times, and who is left out.

Counts of buckets add up, in any order. Their size grows with the catalogue, and with how many
different activities there are: at most the root of twice the rows.

Shapes: I items of the catalogue, U users of a bucket, n interactions.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from greatmeta_dist.data.left_out import LeftOut
from greatmeta_dist.data.split import Ints, SplitTasks
from greatmeta_dist.files import written_atomically

QUANTILES = {"min": 0.0, "10%": 0.1, "50%": 0.5, "90%": 0.9, "99%": 0.99, "max": 1.0}


@dataclass
class LogSummary:
    """Sums over buckets: of interactions, once repeats are merged."""

    item_count: Ints
    """[I] interactions of each item."""
    activity: Counter[int] = field(default_factory=Counter)
    """Users by how many interactions they have."""
    first_time: float = np.inf
    """Seconds since 1970, as the next one; of logs with times."""
    last_time: float = -np.inf
    left_out: LeftOut = field(default_factory=LeftOut)

    @classmethod
    def zeros(cls, num_items: int) -> "LogSummary":
        return cls(np.zeros(num_items, np.int64))

    @classmethod
    def of(cls, tasks: SplitTasks, num_items: int) -> "LogSummary":
        """Of one bucket, whose users were split."""
        history = tasks.history
        count = np.bincount(history.user, minlength=history.num_users)
        values, users = np.unique(count, return_counts=True)
        summary = cls(
            np.bincount(history.item, minlength=num_items),
            Counter(dict(zip(values.tolist(), users.tolist(), strict=True))),
            left_out=tasks.left_out,
        )
        if history.timestamp is not None:
            known = history.timestamp[np.isfinite(history.timestamp)]
            summary.first_time = float(known.min(initial=np.inf))
            summary.last_time = float(known.max(initial=-np.inf))
        return summary

    def write_items(self, path: Path) -> None:
        """Write the counts of the items that have any."""
        item = np.flatnonzero(self.item_count)
        with written_atomically(path) as partial:
            pl.DataFrame({"item": item, "count": self.item_count[item]}).write_ipc(partial)

    def as_result(self) -> dict[str, Any]:
        """The other counts, as JSON can hold them."""
        times = {"first": self.first_time, "last": self.last_time}
        return {
            "activity": sorted(self.activity.items()),
            "times": times if np.isfinite(self.first_time) else None,
            "left_out": self.left_out.as_result(),
        }

    def add(self, result: dict[str, Any], items: Path) -> None:
        """Add another bucket's counts: ``as_result``, and what ``write_items`` wrote."""
        table = pl.read_ipc(items)
        self.item_count[table["item"].to_numpy()] += table["count"].to_numpy()
        self.activity.update(dict(result["activity"]))
        if result["times"] is not None:
            self.first_time = min(self.first_time, result["times"]["first"])
            self.last_time = max(self.last_time, result["times"]["last"])
        self.left_out.add(LeftOut.of_result(result["left_out"]))

    @property
    def num_users(self) -> int:
        return self.activity.total()

    @property
    def num_items(self) -> int:
        return int((self.item_count > 0).sum())

    @property
    def num_interactions(self) -> int:
        return int(self.item_count.sum())

    def user_quantiles(self) -> dict[str, int]:
        """Interactions of users, from the least to the most active one."""
        values = np.array(sorted(self.activity), np.int64)
        return quantiles(values, np.array([self.activity[v] for v in values.tolist()], np.int64))

    def item_quantiles(self) -> dict[str, int]:
        """Interactions of items that have any."""
        return quantiles(*np.unique(self.item_count[self.item_count > 0], return_counts=True))

    def top_share(self, share: float) -> float:
        """The share of the interactions that the most popular ``share`` of the items have."""
        counts = np.sort(self.item_count[self.item_count > 0])[::-1]
        num_top = max(1, round(share * len(counts)))
        return int(counts[:num_top].sum()) / max(1, int(counts.sum()))


def quantiles(values: NDArray[np.int64], counts: NDArray[np.int64]) -> dict[str, int]:
    """Quantiles of ``values``, ascending, each of which stands for ``counts`` many.

    A quantile is the least value that such a share of all does not exceed: an entry, not a mean.
    """
    if not len(values):
        return {}
    cumulative = np.cumsum(counts)
    rank = [max(1, int(np.ceil(q * cumulative[-1]))) for q in QUANTILES.values()]
    found = values[np.searchsorted(cumulative, rank)].tolist()
    return dict(zip(QUANTILES, found, strict=True))
