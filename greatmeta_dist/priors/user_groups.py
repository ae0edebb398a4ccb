"""Preference groups: users clustered by what they choose and what of it they like.

Groups are estimated from the log, never given. The scheduler asks which of them are rare and
difficult, and reports tell minority users from the majority by them.

Shapes: U users, n rows, G groups, K categories.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.config.priors import PriorsConfig, UserGroupsConfig
from greatmeta_dist.priors.base import Prior, Progress, State, TrainingRows, UserRows
from greatmeta_dist.priors.bias import BiasModel
from greatmeta_dist.priors.profiles import Categories, Profiler, profile_feature
from greatmeta_dist.ragged import Ragged, concatenate

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
class Clusters:
    """k-means clusters of users' profiles."""

    profiler: Profiler
    scales: list[float]
    """What each of a user's two profiles is multiplied by."""
    centers: Floats
    """[G, 2K]"""

    @classmethod
    def fit(
        cls, profiler: Profiler, users: UserRows, options: UserGroupsConfig, *, seed: int
    ) -> tuple["Clusters", list[str]]:
        """Cluster users; also a name for each cluster."""
        # Here, for scikit-learn takes long to import, and a saved prior is used without it.
        from sklearn.cluster import KMeans

        profiles = profiler.profiles(users)
        scales = profiler.scales(users, profiles)
        points = _scaled(profiles, scales)
        num_groups = min(options.num_groups, len(np.unique(points, axis=0)))
        k_means = KMeans(num_groups, n_init=options.num_starts, random_state=seed).fit(points)
        centers = k_means.cluster_centers_
        # [G, K] how far a cluster is above the mean user in each category, choice and liking added.
        lift = (centers - points.mean(0)).reshape(num_groups, 2, -1).sum(1)
        return cls(profiler, scales, centers), _group_names(lift, profiler.categories.names)

    def assign(self, rows: UserRows) -> NDArray[np.int32]:
        """The nearest center of each user [U]."""
        points = _scaled(self.profiler.profiles(rows), self.scales)
        # |p − c|² less |p|², which is the same for all centers c.
        distance = (self.centers**2).sum(1) - 2 * points @ self.centers.T
        return distance.argmin(1).astype(np.int32)


def _scaled(profiles: Sequence[Floats], scales: Sequence[float]) -> Floats:
    """Both profiles side by side: [U, 2K]."""
    return np.concatenate([p * scale for p, scale in zip(profiles, scales, strict=True)], 1)


def _group_names(lift: Floats, categories: list[str]) -> list[str]:
    """Name each group by its two strongest categories, no two the same; ``lift`` is [G, K]."""
    names: list[str] = []
    for of_group in lift:
        name = "+".join(categories[k] for k in np.argsort(-of_group)[:2])
        num_same = sum(n.split(" #")[0] == name for n in names)
        names.append(name if not num_same else f"{name} #{num_same + 1}")
    return names


class UserGroupsPrior(Prior):
    """Groups of the training users, and which group any user is in."""

    def __init__(self, groups: list[UserGroup], minority: list[int], clusters: Clusters | None):
        """``clusters`` is None where no item feature makes profiles: all users are one group."""
        self.groups = groups
        self.minority = minority
        """The smallest groups that together hold at most ``minority_share`` of the users."""
        self._clusters = clusters

    @property
    def names(self) -> list[str]:
        return [group.name for group in self.groups]

    def assign(self, item: Ragged, rating: NDArray) -> NDArray[np.int32]:
        """The group of each user [U], from its rows: U lists of items, and their ratings [n]."""
        rows = UserRows(item, rating.astype(np.float64))
        if self._clusters is None:
            return np.zeros(len(rows), np.int32)
        return self._clusters.assign(rows)

    @classmethod
    def fit(
        cls,
        rows: TrainingRows,
        options: PriorsConfig,
        *,
        fitted: Mapping[str, Any],
        progress: Progress,
    ) -> Self:
        section, bias = options.user_groups, fitted["bias"].model
        progress("user groups", 0)
        users = _first_users(rows, section.max_users)
        feature = profile_feature(rows.features, section)
        if feature is None:
            return cls([UserGroup("all", len(users), 1.0, 0.0)], [], None)
        categories = Categories.of_feature(feature)
        profiler = Profiler(categories, bias, rows.is_implicit, section.liking_damping)
        clusters, names = Clusters.fit(profiler, users, section, seed=options.seed)
        groups = difficulties(names, clusters.assign(users), _residual_mse(users, bias))
        sizes = np.array([group.size for group in groups])
        return cls(groups, minority_groups(sizes, section.minority_share), clusters)

    def state(self) -> State:
        arrays: dict[str, NDArray] = {}
        details: dict[str, Any] = {
            "groups": [asdict(group) for group in self.groups],
            "minority": self.minority,
        }
        if self._clusters is not None:
            profiler = self._clusters.profiler
            arrays["centers"] = self._clusters.centers
            arrays["categories.values"] = profiler.categories.of_item.values
            arrays["categories.offsets"] = profiler.categories.of_item.offsets
            details["scales"] = self._clusters.scales
            details["categories"] = profiler.categories.names
            details["is_implicit"] = profiler.is_implicit
            details["liking_damping"] = profiler.liking_damping
        return arrays, details

    @classmethod
    def from_state(
        cls, arrays: dict[str, NDArray], details: dict[str, Any], *, fitted: Mapping[str, Any]
    ) -> Self:
        clusters = None
        if "categories" in details:
            of_item = Ragged(arrays["categories.values"], arrays["categories.offsets"])
            profiler = Profiler(
                Categories(details["categories"], of_item),
                fitted["bias"].model,
                details["is_implicit"],
                details["liking_damping"],
            )
            clusters = Clusters(profiler, details["scales"], arrays["centers"])
        groups = [UserGroup(**group) for group in details["groups"]]
        return cls(groups, details["minority"], clusters)


def _first_users(rows: TrainingRows, max_users: int) -> UserRows:
    """All rows of the first training users, in whole chunks until there are ``max_users``."""
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


def _residual_mse(users: UserRows, bias: BiasModel) -> Floats:
    """Mean square [U] of what the bias model leaves of each user's ratings."""
    squares = bias.training_residuals(users) ** 2
    mse: Floats = np.bincount(users.user, squares, len(users)) / np.maximum(users.item.lengths, 1)
    return mse


def difficulties(
    names: Sequence[str], group: NDArray[np.int32], residual_mse: Floats
) -> list[UserGroup]:
    """Size and difficulty of each group, from each user's group and residual mean square, [U] both.

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
