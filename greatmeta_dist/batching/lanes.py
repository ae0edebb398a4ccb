"""Lanes: fixed slices of the training users, walked in an order that anyone can recompute.

Lane k of K holds store shards k, k + K, …. A step takes the same number of users from every lane,
so the global batch does not depend on how many workers there are (DESIGN.md section 4). Nor does
anything random: each draw's seed is made of what it is for (lane, epoch or step), never of who
makes it or of what was drawn before.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from greatmeta_dist.batching.collate import Collator
from greatmeta_dist.batching.grouping import UserGrouping
from greatmeta_dist.batching.lane_counts import checked_lane_sizes
from greatmeta_dist.batching.length_buckets import length_buckets
from greatmeta_dist.batching.resample import resample_support_query
from greatmeta_dist.config import TrainConfig
from greatmeta_dist.data.arrow import join_batches
from greatmeta_dist.data.store import FeatureSpec, Store, UserTasks
from greatmeta_dist.data.tasks import FeatureMask
from greatmeta_dist.meta.batch import StepBatch, TaskBatch
from greatmeta_dist.ragged import offsets_of


class Lane:
    """One lane's users: the shard and row of each, and their order in each epoch."""

    def __init__(self, store: Store, number: int, num_lanes: int, seed: int, *, first_user: int):
        """``first_user`` is the number of the lane's first user among those of all lanes."""
        self.number, self.seed, self.first_user = number, seed, first_user
        shards = range(number, store.manifest.shards["train"], num_lanes)
        self.shards: list[pa.RecordBatch] = [store.shard("train", s) for s in shards]
        sizes = [shard.num_rows for shard in self.shards]
        self.shard_of_user = np.repeat(np.arange(len(sizes)), sizes)
        self.row_in_shard = np.concatenate([np.arange(n) for n in sizes])

    def __len__(self) -> int:
        return len(self.row_in_shard)

    def order(self, epoch: int, length: int) -> NDArray[np.int64]:
        """The ``length`` users of an epoch: a function of (seed, epoch, lane) alone.

        An epoch ends when the shortest lane cannot fill a batch, so longer lanes leave users out.
        Every epoch leaves out others, and those left out in the epoch before come first.
        """
        num_left_out = len(self) - length
        # A fixed random order of the users, of which each epoch leaves out the next few: in the
        # long run everybody is left out equally often.
        base = np.random.default_rng([self.seed, 11, self.number]).permutation(len(self))

        def left_out(e: int) -> NDArray[np.int64]:
            return base[(e * num_left_out + np.arange(num_left_out)) % len(self)]

        rng = np.random.default_rng([self.seed, 13, self.number, epoch])
        # Users are sorted by a random rank of their shard plus a random fraction: by shard, so
        # that reading stays nearly sequential, and shuffled within a shard.
        rank = rng.permutation(len(self.shards))[self.shard_of_user] + rng.random(len(self))
        if epoch > 0:
            rank[left_out(epoch - 1)] -= len(self.shards) + 1
        rank[left_out(epoch)] = np.inf
        return np.argsort(rank, kind="stable")[:length]

    def read(self, users: NDArray[np.int64], store: Store, feature_spec: FeatureSpec) -> UserTasks:
        """The tasks of the chosen users, in that order; only their rows are read."""
        shard = self.shard_of_user[users]
        by_shard = [
            self.shards[s].take(pa.array(self.row_in_shard[users[shard == s]]))
            for s in np.unique(shard)
        ]
        joined = join_batches(by_shard)
        if (np.diff(shard) < 0).any():
            # Rows now stand shard by shard: bring them back to the order of ``users``.
            position = np.empty(len(users), np.int64)
            position[np.argsort(shard, kind="stable")] = np.arange(len(users))
            joined = joined.take(pa.array(position))
        return store.tasks_of(joined, feature_spec)


@dataclass(frozen=True)
class StepTasks:
    """A step's tasks and whose they are: lane by lane, bucket by bucket."""

    batch: StepBatch
    user: list[str]
    """[users] tokens."""
    group: NDArray[np.int32]
    """[users] preference group in reports."""
    num_support: NDArray[np.int64]
    """[users] support rows."""


class Lanes:
    """The lanes that this worker hosts; any step can be read by its number."""

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
        """Worker ``rank`` of ``world_size`` hosts neighbouring lanes, as many as every other.

        Raises ``InputError`` where the users do not suffice for the lanes that the options ask for.
        """
        sizes = checked_lane_sizes(store, config.lanes, config.users_per_batch, world_size)
        self.count, self.num_users = len(sizes), sum(sizes)
        self.users_per_lane = config.users_per_batch // self.count
        hosted = range(rank * self.count // world_size, (rank + 1) * self.count // world_size)
        first = offsets_of(np.array(sizes)).tolist()
        self.user_range = range(first[hosted.start], first[hosted.stop])
        """Numbers of the users hosted here, among ``num_users`` of all lanes."""
        self.lanes = [Lane(store, k, self.count, config.seed, first_user=first[k]) for k in hosted]
        self.steps_per_epoch = min(sizes) // self.users_per_lane
        self._store, self._collator, self._feature_spec = store, collator, feature_spec
        self._grouping, self._config = grouping, config
        self._orders: tuple[int, list[NDArray[np.int64]]] = (-1, [])

    def step(self, number: int) -> StepTasks:
        """A step's tasks: a function of its number alone."""
        epoch, step_of_epoch = divmod(number, self.steps_per_epoch)
        first = step_of_epoch * self.users_per_lane
        lanes, tokens, groups, support_lengths = [], [], [], []
        for lane, order in zip(self.lanes, self._orders_of(epoch), strict=True):
            chosen = order[first : first + self.users_per_lane]
            users, buckets, by_length, lengths = self._lane_batches(lane, chosen, number)
            lanes.append(buckets)
            tokens += [users.user[k] for k in by_length]
            groups.append(self._grouping.recorded(users, is_training=True)[by_length])
            support_lengths.append(lengths)
        return StepTasks(
            StepBatch.of(lanes), tokens, np.concatenate(groups), np.concatenate(support_lengths)
        )

    def _orders_of(self, epoch: int) -> list[NDArray[np.int64]]:
        """Each lane's order of users in an epoch; the last epoch's is kept."""
        if self._orders[0] != epoch:
            length = self.steps_per_epoch * self.users_per_lane
            self._orders = (epoch, [lane.order(epoch, length) for lane in self.lanes])
        return self._orders[1]

    def _lane_batches(
        self, lane: Lane, chosen: NDArray[np.int64], number: int
    ) -> tuple[UserTasks, list[TaskBatch], NDArray[np.int64], NDArray[np.int64]]:
        """A lane's users in a step, and a batch of each length bucket of them.

        Returns the users in the order of ``chosen``; the batches, which have them by number of
        rows; that order [users]; and the numbers of support rows [users], in that order.
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
            group = self._grouping.estimated(users, is_training=True)
        num_support, num_query = tasks.support_item.lengths, tasks.query_item.lengths
        by_length = np.argsort(num_support + num_query, kind="stable")
        num_support, num_query = num_support[by_length], num_query[by_length]
        buckets = [
            self._collator.collate(
                tasks,
                by_length[bucket],
                is_training=True,
                group=group,
                user_index=lane.first_user + chosen,
                feature_mask=feature_mask,
            )
            for bucket in length_buckets(num_support, num_query)
        ]
        return users, buckets, by_length, num_support
