"""Preference groups: users clustered by which categories their support items belong to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from greatmeta_dist.tasks.batch import Ragged

MAX_FITTED_USERS = 50_000
MINORITY_SHARE = 0.2


def category_profiles(support_item: Ragged, item_category: Ragged, num_categories: int) -> NDArray:
    """Share of each category among every user's support items: [users, categories]."""
    owner = np.repeat(np.arange(len(support_item.lengths)), support_item.lengths)
    picked = item_category.take(support_item.values)
    cell = np.repeat(owner, picked.lengths) * num_categories + picked.values
    counts = np.bincount(cell, minlength=len(support_item.lengths) * num_categories)
    profile = counts.reshape(-1, num_categories).astype(np.float64)
    return profile / np.maximum(profile.sum(1, keepdims=True), 1)


@dataclass(frozen=True)
class Groups:
    """Named groups, and how a profile finds its own."""

    names: list[str]
    centers: NDArray

    def of(self, profiles: NDArray) -> NDArray[np.int32]:
        """Nearest group of each profile: [users]."""
        distance = (self.centers**2).sum(1) - 2 * profiles @ self.centers.T
        return distance.argmin(1).astype(np.int32)


def fit_groups(
    profiles: NDArray, categories: Sequence[str], *, num_groups: int, seed: int
) -> Groups:
    """Cluster profiles; a group is named after the categories it stands out by."""
    rng = np.random.default_rng(seed)
    if len(profiles) > MAX_FITTED_USERS:
        profiles = profiles[rng.choice(len(profiles), MAX_FITTED_USERS, replace=False)]
    distinct = len(np.unique(profiles, axis=0))
    model = KMeans(min(num_groups, distinct), n_init=10, random_state=seed).fit(profiles)
    lift = model.cluster_centers_ - profiles.mean(0)
    names: list[str] = []
    for row in lift:
        name = "+".join(categories[k] for k in np.argsort(-row)[:2])
        taken = sum(n == name or n.startswith(f"{name} #") for n in names)
        names.append(name if not taken else f"{name} #{taken + 1}")
    return Groups(names, model.cluster_centers_)


def minority_groups(sizes: NDArray) -> list[int]:
    """The smallest groups that together hold at most a fifth of the users, in order of size."""
    order = np.argsort(sizes, kind="stable")
    held = np.cumsum(sizes[order]) <= MINORITY_SHARE * sizes.sum()
    return [int(g) for g in order[held] if sizes[g] > 0]
