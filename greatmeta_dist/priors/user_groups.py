"""Preference groups: users clustered by what they choose and what of it they like."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from greatmeta_dist.data.store import Cluster
from greatmeta_dist.ragged import Ragged, offsets_of

MAX_FITTED_USERS = 50_000
MINORITY_SHARE = 0.2
TASTE_PRIOR = 2.0
"""Ratings' worth of prior of how a user's ratings in a category stand out."""


@dataclass(frozen=True)
class History:
    """What is known of users: their support sets, or all rows of training users."""

    item: Ragged
    rating: NDArray
    """[rows]"""

    def where(self, chosen: NDArray[np.bool_]) -> "History":
        """The chosen rows [rows]; every user stays."""
        lengths = self.item.lengths
        owner = np.repeat(np.arange(len(lengths)), lengths)
        offsets = offsets_of(np.bincount(owner[chosen], minlength=len(lengths)))
        return History(Ragged(self.item.values[chosen], offsets), self.rating[chosen])


class Grouping:
    """How users find their group; this one knows a single group."""

    names: Sequence[str] = ("all",)

    def of(self, history: History, users: pl.DataFrame) -> NDArray[np.int32]:
        """The group of each user, from its history or its features: [users]."""
        return np.zeros(len(users), np.int32)


class KnownGroups(Grouping):
    """The true groups of synthetic data, from a column of the users' features."""

    def __init__(self, column: str, names: Sequence[str]):
        self.column, self.names = column, names

    def of(self, history: History, users: pl.DataFrame) -> NDArray[np.int32]:
        index = {name: k for k, name in enumerate(self.names)}
        return users[self.column].replace_strict(index, return_dtype=pl.Int32).to_numpy()


@dataclass(frozen=True)
class Categories:
    """Which categories each item belongs to."""

    names: list[str]
    of_item: Ragged
    """For every item of the catalogue, indices of its categories."""

    @classmethod
    def from_column(cls, column: pl.Series, names: pl.Series) -> "Categories":
        """From the catalogue's values of a feature, and that feature's known values."""
        known = pl.DataFrame({"value": names, "code": np.arange(len(names))})
        frame = pl.DataFrame({"item": np.arange(len(column)), "value": column})
        if column.dtype == pl.List:
            frame = frame.explode("value", empty_as_null=True, keep_nulls=True)
        pairs = frame.join(known, on="value", how="inner", maintain_order="left")
        lengths = np.bincount(pairs["item"].to_numpy(), minlength=len(column))
        return cls(names.to_list(), Ragged(pairs["code"].to_numpy(), offsets_of(lengths)))

    def sums(self, rows: Ragged, value: NDArray) -> NDArray[np.float64]:
        """Sum of ``value`` [rows] by user and category of the rows' items: [users, categories]."""
        num_users, num = len(rows.lengths), len(self.names)
        picked = self.of_item.take(rows.values)
        owner = np.repeat(np.repeat(np.arange(num_users), rows.lengths), picked.lengths)
        by_row = np.repeat(value, picked.lengths)
        sums = np.bincount(owner * num + picked.values, by_row, num_users * num)
        return sums.reshape(num_users, num).astype(np.float64)


@dataclass(frozen=True)
class Profiler:
    """What a history says of a user: what they choose, and what of it they like."""

    categories: Categories
    item_mean: NDArray[np.float64]
    """[items]"""
    is_implicit: bool = False
    """Whether rows of rating 0 were drawn, so that nobody chose them."""

    def blocks(self, history: History) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Two [users, categories]: the categories' shares, and how ratings in each stand out.

        The second is the mean, shrunk, of ratings less their item's mean and the user's own offset.
        """
        every = np.ones(len(history.rating))
        chosen = self.categories.sums(
            history.item, (history.rating > 0) * every if self.is_implicit else every
        )
        shares = chosen / np.maximum(chosen.sum(1, keepdims=True), 1)
        lengths = history.item.lengths
        owner = np.repeat(np.arange(len(lengths)), lengths)
        rest = history.rating - self.item_mean[history.item.values]
        own = np.bincount(owner, rest, len(lengths)) / np.maximum(lengths, 1)
        count = self.categories.sums(history.item, every)
        taste = self.categories.sums(history.item, rest - own[owner]) / (count + TASTE_PRIOR)
        return shares, taste

    def halves(self, history: History) -> tuple["History", "History"]:
        """Every user's rows at even places, and at odd ones."""
        lengths = history.item.lengths
        place = np.arange(len(history.rating)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return history.where(place % 2 == 0), history.where(place % 2 == 1)


class FittedGroups(Grouping):
    """Clusters of preference profiles; a group is named after what it stands out by.

    What users choose and what they like count as far as one half of their histories agrees with
    the other: noise does not make groups.
    """

    def __init__(self, profiler: Profiler, history: History, *, num_groups: int, seed: int):
        self.profiler = profiler
        blocks = profiler.blocks(history)
        halves = [profiler.blocks(half) for half in profiler.halves(history)]
        self._scales = [
            _reliability(left, right) / (np.sqrt(block.var(0).sum()) or 1.0)
            for block, left, right in zip(blocks, *halves, strict=True)
        ]
        profiles = self._scaled(blocks)
        distinct = len(np.unique(profiles, axis=0))
        model = KMeans(min(num_groups, distinct), n_init=10, random_state=seed).fit(profiles)
        self.centers = model.cluster_centers_
        names: list[str] = []
        for lift in (self.centers - profiles.mean(0)).reshape(len(self.centers), 2, -1).sum(1):
            name = "+".join(profiler.categories.names[k] for k in np.argsort(-lift)[:2])
            taken = sum(n.split(" #")[0] == name for n in names)
            names.append(name if not taken else f"{name} #{taken + 1}")
        self.names = names

    def _scaled(self, blocks: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.concatenate([b * s for b, s in zip(blocks, self._scales, strict=True)], 1)

    def of(self, history: History, users: pl.DataFrame) -> NDArray[np.int32]:
        profiles = self._scaled(self.profiler.blocks(history))
        distance = (self.centers**2).sum(1) - 2 * profiles @ self.centers.T
        return distance.argmin(1).astype(np.int32)


class ClusterTally:
    """Adds up training users by cluster, in any chunks."""

    def __init__(self, num_clusters: int):
        self._sums = np.zeros((3, num_clusters))

    def add(self, cluster: NDArray[np.int32], left: NDArray[np.float64]) -> None:
        """Users [n] of each cluster, and what is left of each one's ratings, mean square [n]."""
        for sums, weight in zip(self._sums, (None, left, left**2), strict=True):
            sums += np.bincount(cluster, weight, len(sums))

    def clusters(self) -> list[Cluster]:
        """What is known of each; one of fewer than two users is as difficult as all."""
        count, total, squares = self._sums
        overall = total.sum() / count.sum()
        found = []
        for n, t, s in zip(count, total, squares, strict=True):
            if n < 2 or overall == 0:
                found.append(Cluster(int(n), 1.0, 0.0))
                continue
            variance = max(s - t**2 / n, 0.0) / (n - 1)
            found.append(Cluster(int(n), t / n / overall, (variance / n) ** 0.5 / overall))
        return found


def _reliability(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """How far two measurements [users, columns] of the same users all_true, 0 to 1."""
    left, right = left - left.mean(0), right - right.mean(0)
    scale = np.sqrt((left**2).sum() * (right**2).sum())
    return max(0.0, float((left * right).sum() / scale)) if scale > 0 else 0.0


def minority_groups(sizes: NDArray) -> list[int]:
    """The smallest groups that together hold at most a fifth of the users, in order of size."""
    order = np.argsort(sizes, kind="stable")
    held = np.cumsum(sizes[order]) <= MINORITY_SHARE * sizes.sum()
    return [int(g) for g in order[held] if sizes[g] > 0]
