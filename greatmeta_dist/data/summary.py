"""What a log is like, counted bucket by bucket: activity, popularity, times, and who is left out.

Counts of buckets add up, in any order. Their size grows with the catalogue, and with how many
different activities there are: at most the root of twice the rows.

Shapes: I items of the catalogue, U users of a bucket, n interactions.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from greatmeta_dist.data.left_out import LeftOut
from greatmeta_dist.data.split import Ints, SplitTasks

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
    def of(
        cls, tasks: SplitTasks, num_items: int, times: tuple[float, float] | None
    ) -> "LogSummary":
        """Of one bucket, whose users were split; ``times`` are the first and last of its rows."""
        history = tasks.history
        count = np.bincount(history.user, minlength=history.num_users)
        values, users = np.unique(count, return_counts=True)
        summary = cls(
            np.bincount(history.item, minlength=num_items),
            Counter(dict(zip(values.tolist(), users.tolist(), strict=True))),
            left_out=tasks.left_out,
        )
        if times is not None:
            summary.first_time, summary.last_time = times
        return summary

    def add(self, other: "LogSummary") -> None:
        """Add another bucket's counts."""
        self.item_count += other.item_count
        self.activity += other.activity
        self.first_time = min(self.first_time, other.first_time)
        self.last_time = max(self.last_time, other.last_time)
        self.left_out.add(other.left_out)

    def write(self, path: Path) -> None:
        """Write the counts: of the items, those that have any."""
        item = np.flatnonzero(self.item_count)
        facts = {
            "activity": list(self.activity.items()),
            "times": None
            if self.first_time > self.last_time
            else [self.first_time, self.last_time],
            "left_out": vars(self.left_out),
        }
        counts = pa.table({"item": item, "count": self.item_count[item]})
        table = counts.replace_schema_metadata({"facts": json.dumps(facts)})
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    @classmethod
    def read(cls, path: Path, num_items: int) -> "LogSummary":
        """The inverse of ``write``."""
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        facts = json.loads(table.schema.metadata[b"facts"])
        summary = cls.zeros(num_items)
        summary.item_count[table["item"].to_numpy()] = table["count"].to_numpy()
        summary.activity = Counter(dict(facts["activity"]))
        if facts["times"]:
            summary.first_time, summary.last_time = facts["times"]
        counts = {name: Counter(by_rule) for name, by_rule in facts["left_out"].items()}
        summary.left_out = LeftOut(**counts)
        return summary

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
