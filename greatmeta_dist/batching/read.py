"""Reads a split's tasks in batches, which workers share."""

import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from greatmeta_dist.data.store import FeatureSpec, Store, UserTasks


def read_split(
    store: Store,
    split: str,
    feature_spec: FeatureSpec,
    *,
    users_per_batch: int,
    max_users: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[UserTasks | None]:
    """A split's tasks in batches of users of similar support size.

    Of a split of more than ``max_users`` users about that many are read: the same fraction of every
    shard, in which users stand in no order that matters.

    Of ``world_size`` workers, worker ``rank`` gets batches ``rank``, ``rank + world_size``, ….
    Every worker gets as many values, so that all can do each batch's exchanges together; the last
    is None where there is no batch left for it.
    """
    number = 0
    num_users = store.manifest.splits.get(split, 0)
    fraction = 1.0 if max_users is None else min(1.0, max_users / max(1, num_users))
    for shard_number in range(store.manifest.shards.get(split, 0)):
        shard = store.shard(split, shard_number)
        shard = shard.slice(0, math.ceil(fraction * shard.num_rows))
        lengths = np.diff(shard.column("support_item").offsets.to_numpy())
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), users_per_batch):
            if number % world_size == rank:
                rows = pa.array(order[start : start + users_per_batch])
                yield store.tasks_of(shard.take(rows), feature_spec)
            number += 1
    if 0 < number % world_size <= rank:
        yield None
