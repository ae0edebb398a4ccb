"""The last pass: the tasks of each bucket, with their users' features, become shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from greatmeta_dist.data.arrow import map_arrow, write_arrow
from greatmeta_dist.data.encode import with_user_features
from greatmeta_dist.data.split import SPLITS
from greatmeta_dist.data.split_buckets import SplitUnit
from greatmeta_dist.data.store import shard_name
from greatmeta_dist.data.tables import shared_table
from greatmeta_dist.data.units import Result
from greatmeta_dist.data.vocabulary import Vocabulary
from greatmeta_dist.files import sha256, written_atomically

WRITE = "write the shards"
MIN_SHARDS = 8
"""So that a small store, too, can be read in eight lanes."""


@dataclass(frozen=True)
class WriteUnit:
    """Writes the shards of a bucket; a unit is ``[bucket, first shard of each split]``.

    The result has the checksums of the shards, and in ``groups`` the training users of each known
    group.
    """

    split: SplitUnit
    vocabularies: Sequence[Vocabulary]
    """Of users' features."""
    users_path: Path | None
    """Every user's features by ``id``; with ``known_group`` where groups are known."""
    num_groups: int
    target: Path
    """The folder of the store's files."""

    def __call__(self, number: int, unit: Sequence) -> Result:
        bucket, first_shards = unit
        users = None if self.users_path is None else shared_table(self.users_path)
        group = users["known_group"] if users is not None and self.num_groups else None
        checksums, groups = {}, np.zeros(self.num_groups, np.int64)
        for split, first in first_shards.items():
            tasks = map_arrow(self.split.tasks_path(bucket, split))
            batch = with_user_features(tasks, users, self.vocabularies, group)
            if split == "train" and self.num_groups:
                known = batch.column("known_group").to_numpy()
                groups += np.bincount(known, minlength=self.num_groups)
            for k, shard in enumerate(_dealt(batch, shards_of(split, self.split.log.num_buckets))):
                name = shard_name(split, first + k)
                with written_atomically(self.target / name) as partial:
                    write_arrow(partial, shard)
                    checksums[name] = sha256(partial)
        return {"checksums": checksums, "groups": groups.tolist()}


def shards_of(split: str, num_buckets: int) -> int:
    """The shards of each bucket that has tasks of the split."""
    return max(1, MIN_SHARDS // num_buckets) if split == "train" else 1


def number_shards(
    tasks: Sequence[dict[str, list[int]]], num_buckets: int
) -> tuple[list[list], dict[str, int]]:
    """The units of writing, by the tasks of each bucket; and the shards of each split."""
    shards = dict.fromkeys(SPLITS, 0)
    units = []
    for bucket, splits in enumerate(tasks):
        first = {split: shards[split] for split in SPLITS if split in splits}
        units.append([bucket, first])
        for split in first:
            shards[split] += shards_of(split, num_buckets)
    return units, {split: count for split, count in shards.items() if count}


def _dealt(batch: pa.RecordBatch, num_shards: int) -> list[pa.RecordBatch]:
    """A bucket's users, assigned evenly to its shards."""
    if num_shards == 1:
        return [batch]
    rows = (pa.array(np.arange(k, batch.num_rows, num_shards)) for k in range(num_shards))
    return [batch.take(assigned) for assigned in rows]
