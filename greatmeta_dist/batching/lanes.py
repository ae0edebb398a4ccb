"""Lanes: fixed slices of the training users, walked in an order anyone can recompute.

Lane k of K holds store shards k, k + K, …; a step takes the same number of users from every lane,
so the global batch never depends on how many workers there are (DESIGN.md section 4).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from greatmeta_dist.batching.collate import Collator
from greatmeta_dist.batching.resample import resample_support_query
from greatmeta_dist.config import TrainConfig
from greatmeta_dist.data.store import FeatureSpec, Part, Store
from greatmeta_dist.data.tasks import FeatureMask
from greatmeta_dist.errors import require
from greatmeta_dist.meta.batch import StepBatch
from greatmeta_dist.ragged import offsets_of

USERS_PER_LANE = 4096
"""Training users for which a lane of its own is worth its messages."""

PART_COST_ROWS = 1024
"""Padding rows that cost a step as much as one more part of a lane."""


def default_lanes(num_train: int, num_shards: int) -> int:
    """K by a rule that looks at the store alone: a power of two dividing the shards."""
    lanes = 1
    while 2 * lanes * USERS_PER_LANE <= num_train and num_shards % (2 * lanes) == 0:
        lanes *= 2
    return lanes


def lane_sizes(store: Store, num_lanes: int) -> list[int]:
    """Users of each lane."""
    return [sum(store.train_sizes[lane::num_lanes]) for lane in range(num_lanes)]


def shared_lanes(store: Store, users_per_batch: int, num_workers: int) -> int:
    """K for a group of workers: by the store's rule, but at least as many as there are workers,
    and 8 where users and shards allow, so that up to 8 workers give one result."""
    num_shards = store.manifest.shards["train"]
    lanes = max(8, num_workers, default_lanes(store.manifest.parts["train"], num_shards))

    def fits(count: int) -> bool:
        is_dealt = num_shards % count == 0 and users_per_batch % count == 0
        return is_dealt and min(lane_sizes(store, count)) * count >= users_per_batch

    while lanes > num_workers and not fits(lanes):
        lanes //= 2
    return lanes


def dealt(store: Store, num_lanes: int | None, users_per_batch: int, num_workers: int) -> list[int]:
    """Users of each of K lanes; raises ``InputError`` if they do not suffice."""
    num_shards, num_train = store.manifest.shards["train"], store.manifest.parts["train"]
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
    """One lane's users: which shard and row each stands in, and their order in each epoch."""

    def __init__(self, store: Store, number: int, num_lanes: int, seed: int, *, first: int):
        """``first`` is the place of its first user among those of all lanes."""
        self.number, self.seed, self.first = number, seed, first
        shards = range(number, store.manifest.shards["train"], num_lanes)
        self.batches: list[pa.RecordBatch] = [store.shard("train", s) for s in shards]
        sizes = [b.num_rows for b in self.batches]
        self.shard = np.repeat(np.arange(len(sizes)), sizes)
        self.row = np.concatenate([np.arange(n) for n in sizes])

    def __len__(self) -> int:
        return len(self.row)

    def order(self, epoch: int, length: int) -> NDArray[np.int64]:
        """The ``length`` users of an epoch: a function of (seed, epoch, lane) alone.

        A block of users that moves on with every epoch is left out; those left out in the epoch
        before come first, the others follow shard by shard, shuffled within.
        """
        num_left = len(self) - length
        base = np.random.default_rng([self.seed, 11, self.number]).permutation(len(self))

        def left_out(e: int) -> NDArray[np.int64]:
            return base[(e * num_left + np.arange(num_left)) % len(self)]

        rng = np.random.default_rng([self.seed, 13, self.number, epoch])
        rank = rng.permutation(len(self.batches))[self.shard] + rng.random(len(self))
        if epoch > 0:
            rank[left_out(epoch - 1)] -= len(self.batches) + 1
        rank[left_out(epoch)] = np.inf
        return np.argsort(rank, kind="stable")[:length]

    def read(self, users: NDArray[np.int64], store: Store, choice: FeatureSpec) -> Part:
        """The tasks of the chosen users, in that order; only their rows are read."""
        shard = self.shard[users]
        taken = [
            self.batches[s].take(pa.array(self.row[users[shard == s]])) for s in np.unique(shard)
        ]
        joined = taken[0]
        if len(taken) > 1:
            joined = pa.Table.from_batches(taken).combine_chunks().to_batches()[0]
        if (np.diff(shard) < 0).any():
            back = np.empty(len(users), np.int64)
            back[np.argsort(shard, kind="stable")] = np.arange(len(users))
            joined = joined.take(pa.array(back))
        return store.tasks_of(joined, choice)


@dataclass(frozen=True)
class Step:
    """A step's tasks, each lane's users in parts of similar support size, and who they are."""

    batch: StepBatch
    user: list[str]
    """In the order of the parts, as the arrays."""
    group: NDArray[np.int32]
    num_support: NDArray[np.int64]


class Lanes:
    """All lanes hosted here; any step can be read by its number."""

    def __init__(
        self,
        store: Store,
        collator: Collator,
        choice: FeatureSpec,
        *,
        num_lanes: int | None,
        users_per_batch: int,
        seed: int,
        resample_support: bool,
        short_support_rate: float,
        feature_mask_rate: float,
        rank: int = 0,
        size: int = 1,
    ):
        """Worker ``rank`` of ``size`` hosts as many neighbouring lanes as the others.

        Raises ``InputError`` where the users cannot be dealt as asked.
        """
        lengths = dealt(store, num_lanes, users_per_batch, size)
        self.count, self.num_users = len(lengths), sum(lengths)
        self.users_per_lane = users_per_batch // self.count
        hosted = range(rank * self.count // size, (rank + 1) * self.count // size)
        first = offsets_of(np.array(lengths)).tolist()
        self.places = range(first[hosted.start], first[hosted.stop])
        """Of the users hosted here, among ``num_users`` of all, lane by lane."""
        self.lanes = [Lane(store, k, self.count, seed, first=first[k]) for k in hosted]
        self.steps_per_epoch = min(lengths) // self.users_per_lane
        self.seed, self.resample_support, self.feature_mask_rate = (
            seed,
            resample_support,
            feature_mask_rate,
        )
        self.short_support_rate = short_support_rate
        self._store, self._collator, self._choice = store, collator, choice
        self._orders: tuple[int, list[NDArray[np.int64]]] = (-1, [])

    @classmethod
    def of(
        cls,
        store: Store,
        collator: Collator,
        choice: FeatureSpec,
        config: TrainConfig,
        *,
        rank: int = 0,
        size: int = 1,
    ) -> "Lanes":
        """The lanes that a training's options ask for, as far as a worker hosts them."""
        return cls(
            store,
            collator,
            choice,
            num_lanes=config.lanes,
            users_per_batch=config.users_per_batch,
            seed=config.seed,
            resample_support=config.resample_support,
            short_support_rate=config.short_support_rate,
            feature_mask_rate=config.feature_mask_rate,
            rank=rank,
            size=size,
        )

    def step(self, number: int) -> Step:
        """A step's tasks: a function of its number alone."""
        epoch, index = divmod(number, self.steps_per_epoch)
        if self._orders[0] != epoch:
            length = self.steps_per_epoch * self.users_per_lane
            self._orders = (epoch, [lane.order(epoch, length) for lane in self.lanes])
        here = slice(index * self.users_per_lane, (index + 1) * self.users_per_lane)
        lanes, names, groups, sizes = [], [], [], []
        for lane, order in zip(self.lanes, self._orders[1], strict=True):
            chosen = order[here]
            users = lane.read(chosen, self._store, self._choice)
            rng = np.random.default_rng([self.seed, 17, lane.number, number])
            tasks = users.tasks
            if self.resample_support:
                tasks = resample_support_query(
                    tasks, rng, short_support_rate=self.short_support_rate
                )
            feature_mask = (
                FeatureMask(self.feature_mask_rate, rng) if self.feature_mask_rate else None
            )
            by_length = np.argsort(tasks.support_item.lengths, kind="stable")
            lengths = tasks.support_item.lengths[by_length]
            lanes.append(
                [
                    self._collator.collate(
                        tasks,
                        by_length[p],
                        is_training=True,
                        cluster=users.cluster,
                        place=lane.first + chosen,
                        feature_mask=feature_mask,
                    )
                    for p in length_parts(lengths)
                ]
            )
            names += [users.user[k] for k in by_length]
            groups.append(users.group[by_length])
            sizes.append(lengths)
        return Step(StepBatch.of(lanes), names, np.concatenate(groups), np.concatenate(sizes))


def length_parts(lengths: NDArray[np.int64]) -> list[slice]:
    """Cut users, sorted by length, into parts that are padded apart.

    A cut saves the shorter users' padding and costs a part's overhead; the best one is made while
    it pays, then again on either side.
    """
    if len(lengths) < 2:
        return [slice(0, len(lengths))]
    saved = np.arange(1, len(lengths)) * (lengths[-1] - lengths[:-1])
    cut = int(np.argmax(saved))
    if saved[cut] <= PART_COST_ROWS:
        return [slice(0, len(lengths))]
    cut += 1
    right = [slice(p.start + cut, p.stop + cut) for p in length_parts(lengths[cut:])]
    return [*length_parts(lengths[:cut]), *right]


def read_part(
    store: Store,
    part: str,
    choice: FeatureSpec,
    *,
    users_per_batch: int,
    most: int | None = None,
    rank: int = 0,
    size: int = 1,
) -> Iterator[Part | None]:
    """A part's tasks in batches of users of similar support size.

    Of a part of more than ``most`` users about so many: the same share of every shard, whose users
    stand in no order that matters. With ``size`` readers, each gets every so manyth batch; all get
    as many, the last perhaps None.
    """
    number = 0
    share = 1.0 if most is None else min(1.0, most / max(1, store.manifest.parts.get(part, 0)))
    for shard_number in range(store.manifest.shards.get(part, 0)):
        shard = store.shard(part, shard_number)
        shard = shard.slice(0, math.ceil(share * shard.num_rows))
        lengths = np.diff(shard.column("support_item").offsets.to_numpy())
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), users_per_batch):
            if number % size == rank:
                rows = pa.array(order[start : start + users_per_batch])
                yield store.tasks_of(shard.take(rows), choice)
            number += 1
    if 0 < number % size <= rank:
        yield None
