"""Lanes: fixed slices of the training users, walked in an order that anyone can recompute.

Lane k of K holds store shards k, k + K, …. A step takes the same number of users from every lane,
so the global batch does not depend on how many workers there are (DESIGN.md section 4). Nor does
anything random: each draw's seed is made of what it is for (lane, epoch or step), never of who
makes it or of what was drawn before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from greatmeta_dist.batching.collate import Collator, Layout
from greatmeta_dist.batching.grouping import UserGrouping
from greatmeta_dist.batching.lane_counts import checked_lane_sizes
from greatmeta_dist.batching.length_buckets import length_buckets, support_buckets
from greatmeta_dist.batching.resample import resample_support_query
from greatmeta_dist.config import TrainConfig
from greatmeta_dist.data.arrow import join_batches
from greatmeta_dist.data.store import FeatureSpec, Store, UserTasks
from greatmeta_dist.data.tasks import FeatureMask, TaskTable
from greatmeta_dist.meta.batch import StepBatch, TaskBatch
from greatmeta_dist.ragged import offsets_of

MAX_USERS = 256
"""Of a batch: more would take more memory, and gain nothing."""
QUERY_ROWS = (10, 16, 32)
"""A lane's queries in a step are padded to the first of these that is enough for all; lanes of the
same one can share a batch. The usual queries have 10 rows."""


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
        self._group = np.full(len(self), -1, np.int32)
        """[users] the group that each is taken for; −1 before it is first read."""

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

    def groups(
        self, chosen: NDArray[np.int64], users: UserTasks, grouping: UserGrouping
    ) -> NDArray[np.int32]:
        """[users] the estimated group of each, which is found once in a training: all rows of a
        user count, however they are split into support and query."""
        if (self._group[chosen] < 0).any():
            self._group[chosen] = grouping.estimated(users, is_training=True)
        return self._group[chosen]


@dataclass(frozen=True)
class StepTasks:
    """A step's tasks and whose they are, lane by lane."""

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
        turning_points: Sequence[int] = (),
    ):
        """Worker ``rank`` of ``world_size`` hosts neighbouring lanes, as many as every other.
        ``turning_points`` are the model's, as ``support_buckets`` takes them.

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
        self._turning_points = turning_points
        self.lanes_per_batch = 1
        """How many neighbouring lanes pass through a step as one batch, at most."""
        while self._may_share(2 * self.lanes_per_batch):
            self.lanes_per_batch *= 2

    def step(self, number: int, *, lanes_per_batch: int | None = None) -> StepTasks:
        """A step's tasks: a function of its number alone.

        ``lanes_per_batch`` is the attribute where not given.
        """
        epoch, step_of_epoch = divmod(number, self.steps_per_epoch)
        first = step_of_epoch * self.users_per_lane
        lanes = [
            self._read_lane(lane, order[first : first + self.users_per_lane], number)
            for lane, order in zip(self.lanes, self._orders_of(epoch), strict=True)
        ]
        return StepTasks(
            StepBatch.of(self._groups(lanes, lanes_per_batch or self.lanes_per_batch)),
            [token for lane in lanes for token in lane.user],
            np.concatenate([lane.recorded_group for lane in lanes]),
            np.concatenate([lane.tasks.support_item.lengths for lane in lanes]),
        )

    def _groups(self, lanes: Sequence["_LaneTasks"], max_lanes: int) -> list[list[TaskBatch]]:
        """The batches of each group of lanes that share a batch: whole subtrees of lanes."""
        if len(lanes) == 1 and lanes[0].query_rows is None:
            return [self._by_length(lanes[0])]
        is_alike = len({lane.query_rows for lane in lanes}) == 1
        if len(lanes) == 1 or (is_alike and lanes[0].query_rows and len(lanes) <= max_lanes):
            return [self._batches_of(lanes)]
        half = len(lanes) // 2
        return [*self._groups(lanes[:half], max_lanes), *self._groups(lanes[half:], max_lanes)]

    def _may_share(self, num_lanes: int) -> bool:
        return num_lanes <= len(self.lanes) and num_lanes * self.users_per_lane <= MAX_USERS

    def _orders_of(self, epoch: int) -> list[NDArray[np.int64]]:
        """Each lane's order of users in an epoch; the last epoch's is kept."""
        if self._orders[0] != epoch:
            length = self.steps_per_epoch * self.users_per_lane
            self._orders = (epoch, [lane.order(epoch, length) for lane in self.lanes])
        return self._orders[1]

    def _read_lane(self, lane: Lane, chosen: NDArray[np.int64], number: int) -> "_LaneTasks":
        """A lane's users in a step, in the order of ``chosen``; by number of rows if they need
        batches of their own."""
        config = self._config
        users = lane.read(chosen, self._store, self._feature_spec)
        rng = np.random.default_rng([config.seed, 17, lane.number, number])
        tasks = users.tasks
        if config.resample_support:
            tasks = resample_support_query(tasks, rng, short_support_rate=config.short_support_rate)
        group, is_weighed = users.known_group, self._collator.target_weights is not None
        if is_weighed or group is None:
            group = lane.groups(chosen, users, self._grouping)
        num_query = tasks.query_item.lengths
        lane_tasks = _LaneTasks(
            tasks,
            list(users.user),
            group if users.known_group is None else users.known_group,
            group if is_weighed else None,
            lane.first_user + chosen,
            [FeatureMask(config.feature_mask_rate, rng)] if config.feature_mask_rate else [],
            next((n for n in QUERY_ROWS if num_query.max(initial=0) <= n), None),
        )
        if lane_tasks.query_rows is not None:
            return lane_tasks
        return lane_tasks.take(np.argsort(tasks.support_item.lengths + num_query, kind="stable"))

    def _batches_of(self, lanes: Sequence["_LaneTasks"]) -> list[TaskBatch]:
        """One batch of some lanes; of a lane of very many users as many as it takes."""
        parts = range(0, self.users_per_lane, MAX_USERS)
        if len(parts) == 1:
            return [self._batch_of(_LaneTasks.joined(lanes), len(lanes))]
        (lane,) = lanes
        users = np.arange(self.users_per_lane)
        return [self._batch_of(lane.take(users[k : k + MAX_USERS]), 1) for k in parts]

    def _batch_of(self, joined: "_LaneTasks", num_lanes: int) -> TaskBatch:
        """A batch whose queries are all padded alike."""
        assert joined.query_rows is not None
        layout = Layout(
            np.repeat(np.arange(num_lanes), len(joined.user) // num_lanes),
            joined.query_rows,
            support_buckets(joined.tasks.support_item.lengths, self._turning_points),
        )
        return self._collate(joined, None, layout)

    def _by_length(self, lane: "_LaneTasks") -> list[TaskBatch]:
        """A batch of each length bucket of a lane, whose users stand by number of rows."""
        lengths = lane.tasks.support_item.lengths, lane.tasks.query_item.lengths
        users = np.arange(self.users_per_lane)
        return [self._collate(lane, users[bucket], None) for bucket in length_buckets(*lengths)]

    def _collate(
        self, lane: "_LaneTasks", chosen: NDArray[np.int64] | None, layout: Layout | None
    ) -> TaskBatch:
        return self._collator.collate(
            lane.tasks,
            chosen,
            is_training=True,
            group=lane.group,
            user_index=lane.user_index,
            feature_masks=lane.feature_masks,
            layout=layout,
        )


@dataclass(frozen=True)
class _LaneTasks:
    """Users of a lane in a step, or of several."""

    tasks: TaskTable
    user: list[str]
    """[users] tokens."""
    recorded_group: NDArray[np.int32]
    """[users] preference group in reports."""
    group: NDArray[np.int32] | None
    """[users] preference group that target weights go by; None if nobody asks."""
    user_index: NDArray[np.int64]
    """[users] numbers among all training users."""
    feature_masks: list[FeatureMask]
    """One for each lane, or none."""
    query_rows: int | None
    """Of ``QUERY_ROWS``; None if queries are longer."""

    @classmethod
    def joined(cls, lanes: Sequence["_LaneTasks"]) -> "_LaneTasks":
        """The users of several lanes, lane by lane."""
        if len(lanes) == 1:
            return lanes[0]
        groups = [lane.group for lane in lanes if lane.group is not None]
        return cls(
            TaskTable.joined([lane.tasks for lane in lanes]),
            [token for lane in lanes for token in lane.user],
            np.concatenate([lane.recorded_group for lane in lanes]),
            np.concatenate(groups) if groups else None,
            np.concatenate([lane.user_index for lane in lanes]),
            [mask for lane in lanes for mask in lane.feature_masks],
            lanes[0].query_rows,
        )

    def take(self, order: NDArray[np.int64]) -> "_LaneTasks":
        """The chosen users, in the order asked for."""
        return replace(
            self,
            tasks=self.tasks.take(order),
            user=[self.user[k] for k in order],
            recorded_group=self.recorded_group[order],
            group=None if self.group is None else self.group[order],
            user_index=self.user_index[order],
        )
