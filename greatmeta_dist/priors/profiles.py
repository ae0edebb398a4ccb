"""Preference profiles: what users choose, and what of it they like.

Both are told by category: a category is a value of one item feature, such as a genre.

Shapes: U users, n rows, K categories.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.config.priors import UserGroupsConfig
from greatmeta_dist.errors import require
from greatmeta_dist.priors.base import ItemFeature, UserRows
from greatmeta_dist.priors.bias import BiasModel
from greatmeta_dist.ragged import Ragged, offsets_of

Floats = NDArray[np.float64]


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
        """Sum of ``value`` [n] by user and category of the rows' items: [U, K].

        A row of an item with several categories counts in each.
        """
        num_users, num_categories = len(rows), len(self.names)
        categories = self.of_item.take(rows.item.values)
        user = np.repeat(rows.user, categories.lengths)
        values = np.repeat(value, categories.lengths)
        # One sum over cells numbered user · K + category, in place of a loop over users.
        sums = np.bincount(
            user * num_categories + categories.values, values, num_users * num_categories
        )
        return sums.reshape(num_users, num_categories).astype(np.float64)


@dataclass(frozen=True)
class Profiler:
    """Turns users' rows into profiles."""

    categories: Categories
    bias: BiasModel
    is_implicit: bool
    """Whether rows of rating 0 were drawn, so that nobody chose them."""
    liking_damping: float
    """Ratings' worth of prior, at 0, of how much a user likes a category."""

    def profiles(self, rows: UserRows) -> tuple[Floats, Floats]:
        """Two [U, K]: each category's share of a user's choices, and how much it is liked.

        Liking is the shrunk mean, by category, of ratings less their item's mean and the user's
        own mean.
        """
        ones = np.ones(len(rows.rating))
        chosen = self.categories.sums(rows, (rows.rating > 0) * ones if self.is_implicit else ones)
        choice = chosen / np.maximum(chosen.sum(1, keepdims=True), 1)
        residual = rows.rating - self.bias.item_means(rows.item.values)
        lengths, user = rows.item.lengths, rows.user
        user_mean = np.bincount(user, residual, len(rows)) / np.maximum(lengths, 1)
        count = self.categories.sums(rows, ones)
        liking = self.categories.sums(rows, residual - user_mean[user])
        return choice, liking / (count + self.liking_damping)

    def scales(self, rows: UserRows, profiles: tuple[Floats, Floats]) -> list[float]:
        """How much the two profiles of the users should count in distances between users.

        Each is brought to unit variance, then counts as far as one half of users' rows agrees with
        the other half: noise does not make groups.
        """
        even, odd = (self.profiles(half) for half in _halves(rows))
        return [
            float(_reliability(left, right) / (np.sqrt(profile.var(0).sum()) or 1.0))
            for profile, left, right in zip(profiles, even, odd, strict=True)
        ]


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


def profile_feature(features: list[ItemFeature], options: UserGroupsConfig) -> ItemFeature | None:
    """The item feature whose values are the categories; None where no feature suits.

    Raises ``InputError`` where the options name a feature that is not there or has no values.
    """
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
