"""Lanes: fixed slices of the training users, walked in an order anyone can recompute.

Lane k of K holds store shards k, k + K, …; a step takes the same number of users from every lane,
so the global batch never depends on how many workers there are (DESIGN.md section 4).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import expit

from greatmeta_dist.config import TrainConfig, require
from greatmeta_dist.meta.batch import StepBatch, TaskBatch
from greatmeta_dist.tasks.batch import (
    Features,
    Hiding,
    Ragged,
    TaskTable,
    build_batch,
    offsets_of,
    resplit,
)
from greatmeta_dist.tasks.factorise import Factorisation
from greatmeta_dist.tasks.store import Cluster, FieldChoice, Part, Ratings, Store

USERS_PER_LANE = 4096
"""Training users for which a lane of its own is worth its messages."""

PART_COST_ROWS = 1024
"""Padding rows that cost a step as much as one more part of a lane."""

SURE_ERRORS = 3.0
"""Standard errors that a cluster of users must be more difficult by to count more."""
FULL_EXCESS = 0.25
"""Share by which it is surely more difficult when it counts more in full."""

EVEN_SHARE = 0.5
"""Of the factorisations in predictions, until validation users tell which share is best."""

LEAST_CHANCE = 0.02
"""Expected chances of a click are kept this far from 0 and 1."""


def default_lanes(num_train: int, num_shards: int) -> int:
    """K by a rule that looks at the store alone: a power of two dividing the shards."""
    lanes = 1
    while 2 * lanes * USERS_PER_LANE <= num_train and num_shards % (2 * lanes) == 0:
        lanes *= 2
    return lanes


def lane_sizes(store: Store, num_lanes: int) -> list[int]:
    """Users of each lane."""
    return [sum(store.train_sizes[lane::num_lanes]) for lane in range(num_lanes)]


def shared_lanes(store: Store, users_per_step: int, num_workers: int) -> int:
    """K for a group of workers: by the store's rule, but at least as many as there are workers,
    and 8 where users and shards allow, so that up to 8 workers give one result."""
    num_shards = store.manifest.shards["train"]
    lanes = max(8, num_workers, default_lanes(store.manifest.parts["train"], num_shards))

    def fits(count: int) -> bool:
        is_dealt = num_shards % count == 0 and users_per_step % count == 0
        return is_dealt and min(lane_sizes(store, count)) * count >= users_per_step

    while lanes > num_workers and not fits(lanes):
        lanes //= 2
    return lanes


def dealt(store: Store, num_lanes: int | None, users_per_step: int, num_workers: int) -> list[int]:
    """Users of each of K lanes; raises ``InputError`` if they do not suffice."""
    num_shards, num_train = store.manifest.shards["train"], store.manifest.parts["train"]
    count = num_lanes or default_lanes(num_train, num_shards)
    require(
        num_shards % count == 0 and users_per_step % count == 0,
        f"{count} lanes do not divide the store's {num_shards} shards and "
        f"train.users_per_step={users_per_step}; change train.lanes or train.users_per_step",
    )
    require(
        count % num_workers == 0,
        f"{num_workers} workers do not divide the users' {count} lanes, which a run keeps; take "
        "fewer workers, or start a new run=DIR with more train.lanes",
    )
    sizes = lane_sizes(store, count)
    shortest = min(sizes)
    require(
        shortest * count >= users_per_step,
        f"train.users_per_step is {users_per_step}, and the store has users for "
        f"{shortest * count} ({num_train} training users in {count} lanes); "
        "lower it to that or less",
    )
    return sizes


@dataclass(frozen=True)
class Labels:
    """What the model predicts of a rating, and the way back."""

    ratings: Ratings
    kind: str
    """As ``model.label``."""
    item_count: NDArray[np.int64]
    item_sum: NDArray[np.float64]
    """[items] number and sum of the training users' ratings."""
    item_expected: NDArray[np.float64]
    """[items] what an item's mean is shrunk to."""
    item_prior: float
    user_prior: float
    """Ratings' worth of prior of an item's mean and of a user's offset."""
    is_click: bool = False
    factorisations: list[Factorisation] = field(default_factory=list)
    """Where given, their mean has a part in predictions."""
    share: float = EVEN_SHARE
    """Of the factorisations in these; the rest is the model's."""

    @classmethod
    def of(cls, store: Store, kind: str, *, has_factorisation: bool = False) -> "Labels":
        ratings = store.manifest.ratings
        return cls(
            ratings,
            kind,
            *store.item_statistics(),
            store.item_expected(),
            ratings.item_prior,
            ratings.user_prior,
            store.manifest.is_click,
            store.factorisations() if has_factorisation else [],
        )

    def expected(self, tasks: TaskTable, *, is_training: bool) -> tuple[NDArray, NDArray]:
        """What is taken off the ratings of support and query rows before the model sees them.

        A training user's own rating is kept out of its item's mean.
        """
        sets = ((tasks.support_item, tasks.support_label), (tasks.query_item, tasks.query_label))
        if self.kind in ("rating", "standardised"):
            mean = 0.0 if self.kind == "rating" else self.ratings.mean
            return tuple(np.full(len(r.values), mean) for _, r in sets)  # type: ignore[return-value]
        support, query = (
            self.item_mean(i.values, own=r.values.astype(np.float64) if is_training else None)
            for i, r in sets
        )
        lengths = tasks.support_item.lengths
        owner = np.repeat(np.arange(len(lengths)), lengths)
        rest = tasks.support_label.values - support
        user = np.bincount(owner, rest, len(lengths)) / (lengths + self.user_prior)
        return support + user[owner], query + np.repeat(user, tasks.query_item.lengths)

    def item_mean(self, item: NDArray, *, own: NDArray | None) -> NDArray[np.float64]:
        """Shrunk means of items, each without the rating ``own`` of it where given."""
        count, expected = self.item_count[item].astype(np.float64), self.item_expected[item]
        total = self.item_sum[item] - expected * count
        if own is not None:
            count, total = count - 1, total - (own - expected)
        return expected + total / (count + self.item_prior)

    @property
    def scale(self) -> float:
        """Ratings for each unit of the label."""
        if self.kind == "rating" or self.is_click:
            return 1.0
        return self.ratings.deviation or 1.0

    def logit(self, expected: NDArray) -> NDArray[np.float64]:
        """Of clicks: what predictions are added to, from what is expected."""
        if self.kind == "rating":
            return np.zeros(len(expected))
        chance = np.clip(expected, LEAST_CHANCE, 1 - LEAST_CHANCE)
        return np.log(chance / (1 - chance))

    def apply(self, tasks: TaskTable, *, is_training: bool) -> TaskTable:
        """The same tasks with labels in the model's units."""
        support, query = self.expected(tasks, is_training=is_training)
        if self.is_click:
            return replace(tasks, support_logit=self.logit(support), query_logit=self.logit(query))

        def label(rating: Ragged, expected: NDArray) -> Ragged:
            rest = (rating.values - expected) / self.scale
            return Ragged(rest.astype(np.float32), rating.offsets)

        return replace(
            tasks,
            support_label=label(tasks.support_label, support),
            query_label=label(tasks.query_label, query),
        )

    def to_rating(self, tasks: TaskTable) -> Callable[[NDArray], NDArray[np.float64]]:
        """How predictions for the query rows become ratings, in their range, or chances of a click.

        Of items that the factorisations, if there are any, know: with their share in it.
        """
        of_model = self.of_model(tasks)
        of_factors, is_known = self.factorised(tasks)

        def rating(prediction: NDArray) -> NDArray[np.float64]:
            found = of_model(prediction)
            return np.where(is_known, found + self.share * (of_factors - found), found)

        return rating

    def of_model(self, tasks: TaskTable) -> Callable[[NDArray], NDArray[np.float64]]:
        """As ``to_rating``, of the model by itself."""
        _, expected = self.expected(tasks, is_training=False)

        def rating(prediction: NDArray) -> NDArray[np.float64]:
            if self.is_click:
                chance: NDArray[np.float64] = expit(prediction + self.logit(expected))
                return chance
            return self._in_range(prediction.astype(np.float64) * self.scale + expected)

        return rating

    def factorised(self, tasks: TaskTable) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The factorisations' mean for the query rows, and which of their items they know.

        Without factorisations, none.
        """
        item, query = tasks.support_item.values, tasks.query_item.values
        rest = tasks.support_label.values - self.item_expected[item]
        found, is_known = np.zeros(len(query)), np.zeros(len(query), bool)
        for one in self.factorisations:
            rating, is_known = one.predict(tasks.support_item, rest, tasks.query_item)
            found += rating / len(self.factorisations)
        return self._in_range(found + self.item_expected[query]), is_known

    def _in_range(self, rating: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.clip(rating, self.ratings.lowest, self.ratings.highest)


@dataclass(frozen=True)
class BatchMaker:
    """Turns tasks read from a store into padded batches in the model's units."""

    items: Features
    has_support_gradient: bool
    has_row_norms: bool
    labels: Labels
    prior_rows: float
    balance: NDArray[np.float64] | None = None
    """[clusters] what a user of each counts in training; None where all count 1."""

    def make(
        self,
        tasks: TaskTable,
        chosen: NDArray[np.int64] | None = None,
        *,
        is_training: bool = False,
        cluster: NDArray[np.int32] | None = None,
        place: NDArray[np.int64] | None = None,
        hide: Hiding | None = None,
    ) -> TaskBatch:
        """The batch of a table's chosen tasks, or of all.

        ``cluster`` and ``place`` [tasks] and ``hide`` are for training.
        """
        chosen = np.arange(len(tasks)) if chosen is None else chosen
        return build_batch(
            self.labels.apply(tasks, is_training=is_training),
            self.items,
            chosen,
            has_support_gradient=self.has_support_gradient,
            has_row_norms=self.has_row_norms,
            prior_rows=self.prior_rows,
            hide=hide,
            balance=None
            if cluster is None or self.balance is None
            else self.balance[cluster[chosen]],
            place=None if place is None else place[chosen],
        )


def even_balance(clusters: Sequence[Cluster]) -> NDArray[np.float64]:
    """What a user of each cluster counts where all clusters count the same: [G], 1 on average."""
    sizes = _sizes(clusters)
    return sizes.sum() / (len(sizes) * sizes)


def earned_balance(clusters: Sequence[Cluster], evenness: float) -> NDArray[np.float64]:
    """What a user of each cluster counts where clusters both rare and difficult count more: [G].

    max(1, 1/(G·share))^(``evenness`` · e), then 1 on average over the users. e says how far a
    cluster is more difficult than users are on the whole: 0 up to ``SURE_ERRORS`` standard errors,
    1 from ``FULL_EXCESS`` beyond them. Where no cluster stands out, all users count 1.
    """
    sizes = _sizes(clusters)
    excess = np.array([c.difficulty - 1 - SURE_ERRORS * c.difficulty_error for c in clusters])
    exponent = evenness * np.clip(excess / FULL_EXCESS, 0, 1)
    value = np.maximum(1, even_balance(clusters)) ** exponent
    balance: NDArray[np.float64] = value * sizes.sum() / np.dot(value, sizes)
    return balance


def _sizes(clusters: Sequence[Cluster]) -> NDArray[np.float64]:
    """Users of each cluster; one that none was put in counts as one of a single user."""
    return np.array([max(c.size, 1) for c in clusters], np.float64)


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

    def read(self, users: NDArray[np.int64], store: Store, choice: FieldChoice) -> Part:
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
        maker: BatchMaker,
        choice: FieldChoice,
        *,
        num_lanes: int | None,
        users_per_step: int,
        seed: int,
        is_resplit: bool,
        short_share: float,
        hidden_share: float,
        rank: int = 0,
        size: int = 1,
    ):
        """Worker ``rank`` of ``size`` hosts as many neighbouring lanes as the others.

        Raises ``InputError`` where the users cannot be dealt as asked.
        """
        lengths = dealt(store, num_lanes, users_per_step, size)
        self.count, self.num_users = len(lengths), sum(lengths)
        self.users_per_lane = users_per_step // self.count
        hosted = range(rank * self.count // size, (rank + 1) * self.count // size)
        first = offsets_of(np.array(lengths)).tolist()
        self.places = range(first[hosted.start], first[hosted.stop])
        """Of the users hosted here, among ``num_users`` of all, lane by lane."""
        self.lanes = [Lane(store, k, self.count, seed, first=first[k]) for k in hosted]
        self.steps_per_epoch = min(lengths) // self.users_per_lane
        self.seed, self.is_resplit, self.hidden_share = seed, is_resplit, hidden_share
        self.short_share = short_share
        self._store, self._maker, self._choice = store, maker, choice
        self._orders: tuple[int, list[NDArray[np.int64]]] = (-1, [])

    @classmethod
    def of(
        cls,
        store: Store,
        maker: BatchMaker,
        choice: FieldChoice,
        config: TrainConfig,
        *,
        rank: int = 0,
        size: int = 1,
    ) -> "Lanes":
        """The lanes that a training's options ask for, as far as a worker hosts them."""
        return cls(
            store,
            maker,
            choice,
            num_lanes=config.lanes,
            users_per_step=config.users_per_step,
            seed=config.seed,
            is_resplit=config.is_resplit,
            short_share=config.short_share,
            hidden_share=config.hidden_share,
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
            if self.is_resplit:
                tasks = resplit(tasks, rng, short_share=self.short_share)
            hide = Hiding(self.hidden_share, rng) if self.hidden_share else None
            by_length = np.argsort(tasks.support_item.lengths, kind="stable")
            lengths = tasks.support_item.lengths[by_length]
            lanes.append(
                [
                    self._maker.make(
                        tasks,
                        by_length[p],
                        is_training=True,
                        cluster=users.cluster,
                        place=lane.first + chosen,
                        hide=hide,
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
    choice: FieldChoice,
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
