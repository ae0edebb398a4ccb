"""Preference groups: users clustered by what they choose and what of it they like.

Groups are found in the log, never given. The scheduler asks which of them are rare and difficult,
and records tell minority users from the majority by them.

Shapes: U users, n rows, G groups, K categories.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.config.priors import PriorsConfig, UserGroupsConfig
from greatmeta_dist.errors import require
from greatmeta_dist.priors.base import (
    ItemFeature,
    Prior,
    Progress,
    State,
    TrainingRows,
    UserRows,
)
from greatmeta_dist.priors.bias import BiasModel
from greatmeta_dist.ragged import Ragged, concatenate, offsets_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class UserGroup:
    """Training users of like preferences."""

    name: str
    """The two categories that it stands out by."""
    size: int
    """Training users."""
    difficulty: float
    """Mean square of what the bias model leaves of a user's ratings, in the mean over its users,
    over the same of all users."""
    difficulty_error: float
    """Standard error of ``difficulty``."""


@dataclass(frozen=True)
class Categories:
    """Which categories each item belongs to."""

    names: list[str]
    """[K]"""
    of_item: Ragged
    """For every item of the catalogue, its categories."""

    @classmethod
    def of_feature(cls, feature: ItemFeature) -> "Categories":
        """The values of an item feature that training has seen."""
        codes = feature.codes
        is_seen = codes.values < len(feature.values)
        item = np.repeat(np.arange(len(codes.lengths)), codes.lengths)[is_seen]
        lengths = np.bincount(item, minlength=len(codes.lengths))
        return cls(feature.values, Ragged(codes.values[is_seen], offsets_of(lengths)))

    def sums(self, rows: UserRows, value: NDArray) -> Floats:
        """Sum of ``value`` [n] by user and category of the rows' items: [U, K]."""
        num_users, num_categories = len(rows), len(self.names)
        categories = self.of_item.take(rows.item.values)
        user = np.repeat(rows.user, categories.lengths)
        values = np.repeat(value, categories.lengths)
        sums = np.bincount(
            user * num_categories + categories.values, values, num_users * num_categories
        )
        return sums.reshape(num_users, num_categories).astype(np.float64)


@dataclass(frozen=True)
class Profiler:
    """What users' rows say of their preferences."""

    categories: Categories
    bias: BiasModel
    is_implicit: bool
    """Whether rows of rating 0 were drawn, so that nobody chose them."""
    liking_damping: float

    def profiles(self, rows: UserRows) -> tuple[Floats, Floats]:
        """Two [U, K]: each category's share of a user's choices, and how much it is liked.

        Liking is the shrunk mean, by category, of ratings less their item's mean and the user's
        own mean.
        """
        every = np.ones(len(rows.rating))
        chosen = self.categories.sums(
            rows, (rows.rating > 0) * every if self.is_implicit else every
        )
        choice = chosen / np.maximum(chosen.sum(1, keepdims=True), 1)
        residual = rows.rating - self.bias.item_means(rows.item.values)
        lengths, user = rows.item.lengths, rows.user
        user_mean = np.bincount(user, residual, len(rows)) / np.maximum(lengths, 1)
        count = self.categories.sums(rows, every)
        liking = self.categories.sums(rows, residual - user_mean[user])
        return choice, liking / (count + self.liking_damping)


class UserGroupsPrior(Prior):
    """k-means clusters of preference profiles."""

    def __init__(
        self,
        groups: list[UserGroup],
        minority: list[int],
        profiler: Profiler | None,
        scales: list[float],
        centers: Floats,
    ):
        self.groups = groups
        self.minority = minority
        """The smallest groups that together hold at most ``minority_share`` of the users."""
        self._profiler, self._scales, self._centers = profiler, scales, centers

    @property
    def names(self) -> list[str]:
        return [group.name for group in self.groups]

    def assign(self, item: Ragged, rating: NDArray) -> NDArray[np.int32]:
        """The group of each user [U], from its rows: U lists of items, and their ratings [n]."""
        rows = UserRows(item, rating.astype(np.float64))
        if self._profiler is None:
            return np.zeros(len(rows), np.int32)
        profile = _scaled(self._profiler.profiles(rows), self._scales)
        # |p − c|² less |p|², which is the same for all centers c.
        distance = (self._centers**2).sum(1) - 2 * profile @ self._centers.T
        return distance.argmin(1).astype(np.int32)

    @classmethod
    def fit(
        cls,
        rows: TrainingRows,
        options: PriorsConfig,
        *,
        fitted: Mapping[str, Any],
        progress: Progress,
    ) -> Self:
        own, bias = options.user_groups, fitted["bias"].model
        progress("user groups", 0)
        users = _first_users(rows, own.max_users)
        feature = _profile_feature(rows.features, own)
        if feature is None:
            groups = [UserGroup("all", len(users), 1.0, 0.0)]
            return cls(groups, [], None, [], np.zeros((1, 0)))
        categories = Categories.of_feature(feature)
        profiler = Profiler(categories, bias, rows.is_implicit, own.liking_damping)
        scales, centers, names = _cluster(profiler, users, own, seed=options.seed)
        prior = cls([], [], profiler, scales, centers)
        group = prior.assign(users.item, users.rating)
        squares = bias.training_residuals(users) ** 2
        lengths = users.item.lengths
        residual_mse = np.bincount(users.user, squares, len(users)) / np.maximum(lengths, 1)
        groups = difficulties(names, group, residual_mse)
        sizes = np.array([g.size for g in groups])
        return cls(groups, minority_groups(sizes, own.minority_share), profiler, scales, centers)

    def state(self) -> State:
        details: dict[str, Any] = {
            "groups": [asdict(group) for group in self.groups],
            "minority": self.minority,
            "scales": self._scales,
        }
        arrays: dict[str, NDArray] = {"centers": self._centers}
        if self._profiler is not None:
            categories = self._profiler.categories
            arrays["categories.values"] = categories.of_item.values
            arrays["categories.offsets"] = categories.of_item.offsets
            details["categories"] = categories.names
            details["is_implicit"] = self._profiler.is_implicit
            details["liking_damping"] = self._profiler.liking_damping
        return arrays, details

    @classmethod
    def from_state(
        cls, arrays: dict[str, NDArray], details: dict[str, Any], *, fitted: Mapping[str, Any]
    ) -> Self:
        profiler = None
        if "categories" in details:
            of_item = Ragged(arrays["categories.values"], arrays["categories.offsets"])
            profiler = Profiler(
                Categories(details["categories"], of_item),
                fitted["bias"].model,
                details["is_implicit"],
                details["liking_damping"],
            )
        groups = [UserGroup(**group) for group in details["groups"]]
        return cls(groups, details["minority"], profiler, details["scales"], arrays["centers"])


def _first_users(rows: TrainingRows, max_users: int) -> UserRows:
    """All rows of the first training users, in whole chunks."""
    chunks, num_users = [], 0
    for chunk in rows.chunks():
        chunks.append(chunk)
        num_users += len(chunk)
        if num_users >= max_users:
            break
    return UserRows(
        concatenate([chunk.item for chunk in chunks]),
        np.concatenate([chunk.rating for chunk in chunks]),
    )


def _profile_feature(features: list[ItemFeature], options: UserGroupsConfig) -> ItemFeature | None:
    """The item feature whose values make profiles; None where there is none."""
    wanted = options.category
    if wanted is None:
        small = [f for f in features if f.is_list and 1 < len(f.values) <= options.max_categories]
        return small[0] if small else None
    named = [f for f in features if f.name == wanted]
    names = ", ".join(f.name for f in features) or "none"
    require(
        bool(named),
        f"priors.user_groups.category is '{wanted}'; the item features are {names}",
    )
    require(
        bool(named[0].values),
        f"priors.user_groups.category is '{wanted}', and no rated item has a value of it; choose "
        f"another of {names}",
    )
    return named[0]


def _cluster(
    profiler: Profiler, users: UserRows, options: UserGroupsConfig, *, seed: int
) -> tuple[list[float], Floats, list[str]]:
    """Scales of the two profiles, centers [G, 2K], and the groups' names.

    Choices and likings count as far as one half of users' rows agrees with the other half: noise
    does not make groups.
    """
    from sklearn.cluster import KMeans

    blocks = profiler.profiles(users)
    halves = [profiler.profiles(half) for half in _halves(users)]
    scales = [
        _reliability(left, right) / (np.sqrt(block.var(0).sum()) or 1.0)
        for block, left, right in zip(blocks, *halves, strict=True)
    ]
    profiles = _scaled(blocks, scales)
    distinct = len(np.unique(profiles, axis=0))
    num_groups = min(options.num_groups, distinct)
    centers = KMeans(num_groups, n_init=options.num_starts, random_state=seed).fit(profiles)
    names: list[str] = []
    for lift in (centers.cluster_centers_ - profiles.mean(0)).reshape(num_groups, 2, -1).sum(1):
        name = "+".join(profiler.categories.names[k] for k in np.argsort(-lift)[:2])
        taken = sum(n.split(" #")[0] == name for n in names)
        names.append(name if not taken else f"{name} #{taken + 1}")
    return [float(scale) for scale in scales], centers.cluster_centers_, names


def _scaled(blocks: Sequence[Floats], scales: Sequence[float]) -> Floats:
    return np.concatenate([b * s for b, s in zip(blocks, scales, strict=True)], 1)


def _halves(rows: UserRows) -> tuple[UserRows, UserRows]:
    """Every user's rows at even positions, and at odd ones."""
    lengths = rows.item.lengths
    position = np.arange(len(rows.rating)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return rows.where(position % 2 == 0), rows.where(position % 2 == 1)


def _reliability(left: Floats, right: Floats) -> float:
    """How far two measurements [U, K] of the same users agree, 0 to 1: their correlation."""
    left, right = left - left.mean(0), right - right.mean(0)
    scale = np.sqrt((left**2).sum() * (right**2).sum())
    return max(0.0, float((left * right).sum() / scale)) if scale > 0 else 0.0


def difficulties(
    names: Sequence[str], group: NDArray[np.int32], residual_mse: Floats
) -> list[UserGroup]:
    """What is known of each group, from each user's group and residual mean square, [U] both.

    A group of fewer than two users is taken to be as difficult as users are on the whole.
    """
    num_groups = len(names)
    count = np.bincount(group, minlength=num_groups)
    total = np.bincount(group, residual_mse, num_groups)
    squares = np.bincount(group, residual_mse**2, num_groups)
    overall = total.sum() / count.sum()
    groups = []
    for name, n, t, s in zip(names, count, total, squares, strict=True):
        if n < 2 or overall == 0:
            groups.append(UserGroup(name, int(n), 1.0, 0.0))
            continue
        variance = max(s - t**2 / n, 0.0) / (n - 1)
        error = float((variance / n) ** 0.5 / overall)
        groups.append(UserGroup(name, int(n), float(t / n / overall), error))
    return groups


def minority_groups(sizes: NDArray, share: float) -> list[int]:
    """The smallest groups that together hold at most ``share`` of the users, smallest first."""
    order = np.argsort(sizes, kind="stable")
    is_minority = np.cumsum(sizes[order]) <= share * sizes.sum()
    return [int(g) for g in order[is_minority] if sizes[g] > 0]
