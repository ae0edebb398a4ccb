"""Lanes: fixed slices of the training users, walked in an order that anyone can recompute.

Lane k of K holds store shards k, k + K, …. A step takes the same number of users from every lane,
so the global batch does not depend on how many workers there are (DESIGN.md section 4). Nor does
anything random: each draw's seed is made of what it is for (lane, epoch or step), never of who
makes it or of what was drawn before.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from greatmeta_dist.batching.collate import Collator, Layout
from greatmeta_dist.batching.grouping import UserGrouping
from greatmeta_dist.batching.lane_counts import checked_lane_sizes
from greatmeta_dist.batching.length_buckets import (
    LONGEST_SUM,
    PLAIN,
    length_buckets,
    support_buckets,
)
from greatmeta_dist.batching.resample import resample_support_query
from greatmeta_dist.config import TrainConfig
from greatmeta_dist.data.arrow import join_batches
from greatmeta_dist.data.store import FeatureSpec, Store, UserTasks
from greatmeta_dist.data.tasks import FeatureMask, TaskTable
from greatmeta_dist.meta.batch import StepBatch, TaskBatch
from greatmeta_dist.meta.padding import Padding
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

    def records(self, users: NDArray[np.int64]) -> pa.RecordBatch:
        """The records of the chosen users, in that order; only their rows are read."""
        shard = self.shard_of_user[users]
        joined = join_batches(
            [
                self.shards[s].take(pa.array(self.row_in_shard[users[shard == s]]))
                for s in np.unique(shard)
            ]
        )
        if (np.diff(shard) >= 0).all():
            return joined
        # Rows stand shard by shard: bring them back to the order of ``users``.
        position = np.empty(len(users), np.int64)
        position[np.argsort(shard, kind="stable")] = np.arange(len(users))
        return joined.take(pa.array(position))


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
        padding: Padding = PLAIN,
    ):
        """Worker ``rank`` of ``world_size`` hosts neighbouring lanes, as many as every other.
        ``padding`` is the model's, as ``support_buckets`` takes it.

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
        self._padding = padding
        self._group = np.full(len(self.user_range), -1, np.int32)
        """[users hosted here] the group that each is taken for; −1 before it is first read."""
        self.lanes_per_batch = 1
        """How many neighbouring lanes pass through a step as one batch, at most."""
        while self._may_share(2 * self.lanes_per_batch):
            self.lanes_per_batch *= 2

    def step(
        self, number: int, *, lanes_per_batch: int | None = None, is_furthest: bool = False
    ) -> StepTasks:
        """A step's tasks: a function of its number alone.

        ``lanes_per_batch`` is the attribute where not given. ``is_furthest`` pads supports as far
        as any batch would.
        """
        epoch, step_of_epoch = divmod(number, self.steps_per_epoch)
        first = step_of_epoch * self.users_per_lane
        chosen = [order[first : first + self.users_per_lane] for order in self._orders_of(epoch)]
        tasks = self._read(chosen, number)
        return StepTasks(
            StepBatch.of(self._groups(tasks, lanes_per_batch or self.lanes_per_batch, is_furthest)),
            tasks.user,
            tasks.recorded_group,
            tasks.tasks.support_item.lengths,
        )

    def _groups(
        self, lanes: "_LaneTasks", max_lanes: int, is_furthest: bool
    ) -> list[list[TaskBatch]]:
        """The batches of each group of lanes that share a batch: whole subtrees of lanes."""
        num_lanes, query_rows = len(lanes.query_rows), set(lanes.query_rows)
        if query_rows == {None} and num_lanes == 1:
            return [self._by_length(lanes)]
        is_alike = len(query_rows) == 1 and None not in query_rows
        if num_lanes == 1 or (is_alike and num_lanes <= max_lanes):
            return [self._batches_of(lanes, is_furthest)]
        halves = lanes.halves()
        return [group for half in halves for group in self._groups(half, max_lanes, is_furthest)]

    def _may_share(self, num_lanes: int) -> bool:
        is_small = num_lanes <= len(self.lanes) and num_lanes * self.users_per_lane <= MAX_USERS
        return is_small and self._padding.fewest <= LONGEST_SUM

    def _orders_of(self, epoch: int) -> list[NDArray[np.int64]]:
        """Each lane's order of users in an epoch; the last epoch's is kept."""
        if self._orders[0] != epoch:
            length = self.steps_per_epoch * self.users_per_lane
            self._orders = (epoch, [lane.order(epoch, length) for lane in self.lanes])
        return self._orders[1]

    def _read(self, chosen: list[NDArray[np.int64]], number: int) -> "_LaneTasks":
        """Each lane's ``chosen`` users in a step, in that order; by number of rows where they need
        batches of their own."""
        config = self._config
        records = [lane.records(of_lane) for lane, of_lane in zip(self.lanes, chosen, strict=True)]
        users = self._store.tasks_of(join_batches(records), self._feature_spec)
        rngs = [
            np.random.default_rng([config.seed, 17, lane.number, number]) for lane in self.lanes
        ]
        tasks = users.tasks
        if config.resample_support:
            tasks = resample_support_query(
                tasks, *rngs, short_support_rate=config.short_support_rate
            )
        user_index = np.concatenate(
            [lane.first_user + of_lane for lane, of_lane in zip(self.lanes, chosen, strict=True)]
        )
        group, is_weighed = users.known_group, self._collator.target_weights is not None
        if is_weighed or group is None:
            group = self._estimated_groups(users, user_index)
        rate = config.feature_mask_rate
        lane_tasks = _LaneTasks(
            tasks,
            list(users.user),
            group if users.known_group is None else users.known_group,
            group if is_weighed else None,
            user_index,
            [FeatureMask(rate, rng) for rng in rngs] if rate else [],
            [
                next((n for n in QUERY_ROWS if longest <= n), None)
                for longest in tasks.query_item.lengths.reshape(len(rngs), -1).max(1)
            ],
        )
        return lane_tasks if all(lane_tasks.query_rows) else lane_tasks.sorted_by_length()

    def _estimated_groups(
        self, users: UserTasks, user_index: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """[users] the estimated group of each, which is found once in a training: all rows of a
        user count, however they are split into support and query."""
        at = user_index - self.user_range.start
        if (self._group[at] < 0).any():
            self._group[at] = self._grouping.estimated(users, is_training=True)
        return self._group[at]

    def _batches_of(self, lanes: "_LaneTasks", is_furthest: bool) -> list[TaskBatch]:
        """One batch of some lanes; of a lane of very many users as many as it takes."""
        if self.users_per_lane <= MAX_USERS:
            return [self._batch_of(lanes, is_furthest)]
        users = np.arange(self.users_per_lane)
        parts = range(0, self.users_per_lane, MAX_USERS)
        return [self._batch_of(lanes.take(users[k : k + MAX_USERS]), is_furthest) for k in parts]

    def _batch_of(self, lanes: "_LaneTasks", is_furthest: bool) -> TaskBatch:
        """A batch whose queries are all padded alike."""
        num_lanes, query_rows = len(lanes.query_rows), lanes.query_rows[0]
        assert query_rows is not None
        layout = Layout(
            np.repeat(np.arange(num_lanes), len(lanes.user) // num_lanes),
            query_rows,
            support_buckets(
                lanes.tasks.support_item.lengths, self._padding, is_furthest=is_furthest
            ),
        )
        return self._collate(lanes, None, layout)

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
    """Users of some neighbouring lanes in a step, lane by lane."""

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
    query_rows: list[int | None]
    """Of each lane, one of ``QUERY_ROWS``; None if its queries are longer."""

    def halves(self) -> list["_LaneTasks"]:
        """The first and the second half of the lanes."""
        users, num_lanes = np.arange(len(self.user)), len(self.query_rows)
        return [
            replace(
                self.take(of_half),
                feature_masks=self.feature_masks[lanes],
                query_rows=self.query_rows[lanes],
            )
            for of_half, lanes in zip(
                np.split(users, 2),
                (slice(0, num_lanes // 2), slice(num_lanes // 2, num_lanes)),
                strict=True,
            )
        ]

    def sorted_by_length(self) -> "_LaneTasks":
        """The same, with the users of each lane whose queries are long by their number of rows."""
        num_rows = self.tasks.support_item.lengths + self.tasks.query_item.lengths
        of_lanes = np.split(np.arange(len(self.user)), len(self.query_rows))
        order = [
            users[np.argsort(num_rows[users], kind="stable")] if query_rows is None else users
            for users, query_rows in zip(of_lanes, self.query_rows, strict=True)
        ]
        return self.take(np.concatenate(order))

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
