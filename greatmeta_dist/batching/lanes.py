"""Lanes: fixed slices of the training users, walked in an order that anyone can recompute.

Lane k of K holds store shards k, k + K, …. A step takes the same number of users from every lane,
so the global batch never depends on how many workers there are (DESIGN.md section 4).
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from greatmeta_dist.batching.collate import Collator
from greatmeta_dist.batching.grouping import UserGrouping
from greatmeta_dist.batching.length_buckets import length_buckets
from greatmeta_dist.batching.resample import resample_support_query
from greatmeta_dist.config import TrainConfig
from greatmeta_dist.data.arrow import join_batches
from greatmeta_dist.data.store import FeatureSpec, Store, UserTasks
from greatmeta_dist.data.tasks import FeatureMask
from greatmeta_dist.errors import require
from greatmeta_dist.meta.batch import StepBatch, TaskBatch
from greatmeta_dist.ragged import offsets_of

USERS_PER_LANE = 4096
"""Training users for which a lane of its own is worth its messages."""


def default_lanes(num_train: int, num_shards: int) -> int:
    """K by a rule that looks at the store alone: a power of two that divides the shards."""
    lanes = 1
    while 2 * lanes * USERS_PER_LANE <= num_train and num_shards % (2 * lanes) == 0:
        lanes *= 2
    return lanes


def lane_sizes(store: Store, num_lanes: int) -> list[int]:
    """Users of each lane."""
    return [sum(store.train_sizes[lane::num_lanes]) for lane in range(num_lanes)]


def group_lanes(store: Store, users_per_batch: int, num_workers: int) -> int:
    """K for a group of workers.

    By the store's rule, but at least as many as there are workers, and 8 where users and shards
    allow, so that up to 8 workers give one result.
    """
    num_shards = store.manifest.shards["train"]
    lanes = max(8, num_workers, default_lanes(store.manifest.splits["train"], num_shards))

    def fits(count: int) -> bool:
        is_divided = num_shards % count == 0 and users_per_batch % count == 0
        return is_divided and min(lane_sizes(store, count)) * count >= users_per_batch

    while lanes > num_workers and not fits(lanes):
        lanes //= 2
    return lanes


def checked_lane_sizes(
    store: Store, num_lanes: int | None, users_per_batch: int, num_workers: int
) -> list[int]:
    """Users of each of K lanes; raises ``InputError`` if they do not suffice."""
    num_shards, num_train = store.manifest.shards["train"], store.manifest.splits["train"]
    count = num_lanes or default_lanes(num_train, num_shards)
    require(
        num_shards % count == 0 and users_per_batch % count == 0,
        f"{count} lanes do not divide the store's {num_shards} shards and "
        f"train.users_per_batch={users_per_batch}; change train.lanes or train.users_per_batch",
    )
    require(
        count % num_workers == 0,
        f"{num_workers} workers do not divide the users' {count} lanes, which a run keeps; take "
        "fewer workers, or start a new run=DIR with more train.lanes",
    )
    sizes = lane_sizes(store, count)
    shortest = min(sizes)
    require(
        shortest * count >= users_per_batch,
        f"train.users_per_batch is {users_per_batch}, and the store has users for "
        f"{shortest * count} ({num_train} training users in {count} lanes); "
        "lower it to that or less",
    )
    return sizes


class Lane:
    """One lane's users: the shard and row of each, and their order in each epoch."""

    def __init__(self, store: Store, number: int, num_lanes: int, seed: int, *, first_user: int):
        """``first_user`` is the index of its first user among those of all lanes."""
        self.number, self.seed, self.first_user = number, seed, first_user
        shards = range(number, store.manifest.shards["train"], num_lanes)
        self.batches: list[pa.RecordBatch] = [store.shard("train", s) for s in shards]
        sizes = [b.num_rows for b in self.batches]
        self.shard = np.repeat(np.arange(len(sizes)), sizes)
        self.row = np.concatenate([np.arange(n) for n in sizes])

    def __len__(self) -> int:
        return len(self.row)

    def order(self, epoch: int, length: int) -> NDArray[np.int64]:
        """The ``length`` users of an epoch: a function of (seed, epoch, lane) alone.

        An epoch ends when the shortest lane cannot fill a batch, so longer lanes leave users out.
        Which ones moves on with every epoch, and those left out in the epoch before come first.
        The others follow shard by shard, shuffled within: reading stays nearly sequential.
        """
        num_left_out = len(self) - length
        base = np.random.default_rng([self.seed, 11, self.number]).permutation(len(self))

        def left_out(e: int) -> NDArray[np.int64]:
            return base[(e * num_left_out + np.arange(num_left_out)) % len(self)]

        rng = np.random.default_rng([self.seed, 13, self.number, epoch])
        rank = rng.permutation(len(self.batches))[self.shard] + rng.random(len(self))
        if epoch > 0:
            rank[left_out(epoch - 1)] -= len(self.batches) + 1
        rank[left_out(epoch)] = np.inf
        return np.argsort(rank, kind="stable")[:length]

    def read(self, users: NDArray[np.int64], store: Store, feature_spec: FeatureSpec) -> UserTasks:
        """The tasks of the chosen users, in that order; only their rows are read."""
        shard = self.shard[users]
        taken = [
            self.batches[s].take(pa.array(self.row[users[shard == s]])) for s in np.unique(shard)
        ]
        joined = join_batches(taken)
        if (np.diff(shard) < 0).any():  # rows were taken shard by shard: back to the users' order
            back = np.empty(len(users), np.int64)
            back[np.argsort(shard, kind="stable")] = np.arange(len(users))
            joined = joined.take(pa.array(back))
        return store.tasks_of(joined, feature_spec)


@dataclass(frozen=True)
class Step:
    """A step's tasks, each lane's users in length buckets, and who they are."""

    batch: StepBatch
    user: list[str]
    """In the order of the buckets, as the arrays."""
    group: NDArray[np.int32]
    """[users] preference group, as records have it."""
    num_support: NDArray[np.int64]
    """[users] support rows."""


class Lanes:
    """All lanes hosted here; any step can be read by its number."""

    def __init__(
        self,
        store: Store,
        collator: Collator,
        feature_spec: FeatureSpec,
        grouping: UserGrouping,
        config: TrainConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
    ):
        """Worker ``rank`` of ``world_size`` hosts as many neighbouring lanes as the others.

        Raises ``InputError`` where the users cannot be dealt as the options ask.
        """
        lengths = checked_lane_sizes(store, config.lanes, config.users_per_batch, world_size)
        self.count, self.num_users = len(lengths), sum(lengths)
        self.users_per_lane = config.users_per_batch // self.count
        hosted = range(rank * self.count // world_size, (rank + 1) * self.count // world_size)
        first = offsets_of(np.array(lengths)).tolist()
        self.user_range = range(first[hosted.start], first[hosted.stop])
        """The users hosted here, among ``num_users`` of all, lane by lane."""
        self.lanes = [Lane(store, k, self.count, config.seed, first_user=first[k]) for k in hosted]
        self.steps_per_epoch = min(lengths) // self.users_per_lane
        self._store, self._collator, self._feature_spec = store, collator, feature_spec
        self._grouping, self._config = grouping, config
        self._orders: tuple[int, list[NDArray[np.int64]]] = (-1, [])

    def step(self, number: int) -> Step:
        """A step's tasks: a function of its number alone."""
        epoch, index = divmod(number, self.steps_per_epoch)
        if self._orders[0] != epoch:
            length = self.steps_per_epoch * self.users_per_lane
            self._orders = (epoch, [lane.order(epoch, length) for lane in self.lanes])
        in_epoch = slice(index * self.users_per_lane, (index + 1) * self.users_per_lane)
        batches, names, groups, sizes = [], [], [], []
        for lane, order in zip(self.lanes, self._orders[1], strict=True):
            users, buckets, by_length, lengths = self._lane_batches(lane, order[in_epoch], number)
            batches.append(buckets)
            names += [users.user[k] for k in by_length]
            groups.append(self._grouping.recorded(users, is_training=True)[by_length])
            sizes.append(lengths)
        return Step(StepBatch.of(batches), names, np.concatenate(groups), np.concatenate(sizes))

    def _lane_batches(
        self, lane: Lane, chosen: NDArray[np.int64], number: int
    ) -> tuple[UserTasks, list[TaskBatch], NDArray[np.int64], NDArray[np.int64]]:
        """A lane's users of a step, their batches by length bucket, their order, and lengths.

        Random draws are functions of (seed, lane, step), so that they do not depend on who reads.
        """
        config = self._config
        users = lane.read(chosen, self._store, self._feature_spec)
        rng = np.random.default_rng([config.seed, 17, lane.number, number])
        tasks = users.tasks
        if config.resample_support:
            tasks = resample_support_query(tasks, rng, short_support_rate=config.short_support_rate)
        feature_mask = None
        if config.feature_mask_rate:
            feature_mask = FeatureMask(config.feature_mask_rate, rng)
        group = None
        if self._collator.target_weights is not None:
            group = self._grouping.found(users, is_training=True)
        by_length = np.argsort(tasks.support_item.lengths, kind="stable")
        lengths = tasks.support_item.lengths[by_length]
        buckets = [
            self._collator.collate(
                tasks,
                by_length[bucket],
                is_training=True,
                group=group,
                user_index=lane.first_user + chosen,
                feature_mask=feature_mask,
            )
            for bucket in length_buckets(lengths)
        ]
        return users, buckets, by_length, lengths
