"""Preference groups: users clustered by which categories their support items belong to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from greatmeta_dist.tasks.batch import Ragged, offsets_of

MAX_FITTED_USERS = 50_000
MINORITY_SHARE = 0.2


class Grouping:
    """How users find their group; this one knows a single group."""

    names: Sequence[str] = ("all",)

    def of(self, support_item: Ragged, users: pl.DataFrame) -> NDArray[np.int32]:
        """The group of each user, from its support items or its features: [users]."""
        return np.zeros(len(users), np.int32)


class KnownGroups(Grouping):
    """The true groups of synthetic data, from a column of the users' features."""

    def __init__(self, column: str, names: Sequence[str]):
        self.column, self.names = column, names

    def of(self, support_item: Ragged, users: pl.DataFrame) -> NDArray[np.int32]:
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

    def profiles(self, support_item: Ragged) -> NDArray[np.float64]:
        """Share of each category among every user's support items: [users, categories]."""
        num_users, num = len(support_item.lengths), len(self.names)
        picked = self.of_item.take(support_item.values)
        owner = np.repeat(np.repeat(np.arange(num_users), support_item.lengths), picked.lengths)
        counts = np.bincount(owner * num + picked.values, minlength=num_users * num)
        profile = counts.reshape(num_users, num).astype(np.float64)
        return profile / np.maximum(profile.sum(1, keepdims=True), 1)


class FittedGroups(Grouping):
    """Clusters of preference profiles; a group is named after what it stands out by."""

    def __init__(self, categories: Categories, profiles: NDArray, *, num_groups: int, seed: int):
        self.categories = categories
        distinct = len(np.unique(profiles, axis=0))
        model = KMeans(min(num_groups, distinct), n_init=10, random_state=seed).fit(profiles)
        self.centers = model.cluster_centers_
        names: list[str] = []
        for lift in self.centers - profiles.mean(0):
            name = "+".join(categories.names[k] for k in np.argsort(-lift)[:2])
            taken = sum(n.split(" #")[0] == name for n in names)
            names.append(name if not taken else f"{name} #{taken + 1}")
        self.names = names

    def of(self, support_item: Ragged, users: pl.DataFrame) -> NDArray[np.int32]:
        profiles = self.categories.profiles(support_item)
        distance = (self.centers**2).sum(1) - 2 * profiles @ self.centers.T
        return distance.argmin(1).astype(np.int32)


def minority_groups(sizes: NDArray) -> list[int]:
    """The smallest groups that together hold at most a fifth of the users, in order of size."""
    order = np.argsort(sizes, kind="stable")
    held = np.cumsum(sizes[order]) <= MINORITY_SHARE * sizes.sum()
    return [int(g) for g in order[held] if sizes[g] > 0]
