"""How far the mean of a new item is expected to lie from what its features predict.

Estimated from the training items, each predicted by the content regression without it.

Shapes: I items of the catalogue, H held-out items, J new items.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.config.priors import BiasConfig
from greatmeta_dist.priors.base import TrainingRows
from greatmeta_dist.priors.variance_components import VarianceComponents

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NewItemPrior:
    """The prior of a new item's offset, and of the noise of its ratings."""

    damping: float
    """Ratings' worth of prior, at 0, of the offset."""
    noise: float
    """Variance of a rating about its item's mean and its user's offset."""
    noise_ratings: float
    """Ratings' worth of prior, at ``noise``, of an item's own noise."""

    @property
    def variance(self) -> float:
        """Variance of the offset."""
        return self.noise / self.damping

    @classmethod
    def fit(
        cls,
        rows: TrainingRows,
        held_out: NDArray[np.int64],
        content_mean: Floats,
        noise: float,
        options: BiasConfig,
    ) -> Self:
        """From held-out items [H] and what was predicted of them, ``content_mean`` [H]."""
        between = item_components(rows, held_out, content_mean).between_groups()
        least = noise / options.max_damping
        damping = options.max_damping
        if between is not None and between > least:
            damping = max(noise / between, options.min_damping)
        return cls(damping, noise, _noise_ratings(rows, options.max_damping))

    def offsets(
        self, count: NDArray[np.int64], weight: Floats, total: Floats, squares: Floats
    ) -> Floats:
        """[J] posterior means of items' offsets; exactly 0 of an item without ratings.

        The arguments are [J], sums over each item's ratings: their number, their weights w, and
        w·e and w·e², with e what content and the user's offset leave of a rating. An item whose
        ratings disagree has more noise of its own, so its offset is shrunk more.
        """
        scatter = squares - total**2 / np.maximum(weight, 1e-9)
        about_own_mean = np.maximum(count - 1, 0)
        noise = self.noise_ratings * self.noise + np.where(count > 1, np.maximum(scatter, 0), 0)
        noise /= self.noise_ratings + about_own_mean
        damping = self.damping * (noise / self.noise if self.noise else 1.0)
        return total / (weight + damping)


def item_components(
    rows: TrainingRows, items: NDArray[np.int64], content_mean: Floats
) -> VarianceComponents:
    """Variance of ratings about ``content_mean`` [items], within and between these items."""
    count, total = rows.item_count[items], rows.item_sum[items]
    about = total - content_mean * count
    # Σ (r − m)² = Σ r² − m (Σ r + Σ (r − m)), so that no pass over the ratings is needed.
    squares = rows.item_squares[items] - content_mean * (total + about)
    components = VarianceComponents()
    components.add(count, about, squares)
    return components


def _noise_ratings(rows: TrainingRows, most: float) -> float:
    """How alike items' noises are, as ratings' worth of prior.

    Noises are taken to be scaled inverse χ² of ν degrees of freedom. Their relative variance is
    then 2/(ν − 4). It is that of the observed variances, less 2/(n − 1) of an item of n ratings,
    which comes from having few.
    """
    several = rows.item_count > 1
    count = rows.item_count[several].astype(np.float64)
    if not len(count):
        return most
    scatter = rows.item_squares[several] - rows.item_sum[several] ** 2 / count
    variance = np.maximum(scatter, 0) / (count - 1)
    mean = float(((count - 1) * variance).sum() / (count - 1).sum())
    if not mean:
        return most
    relative = (variance / mean - 1) ** 2 - 2 / (count - 1)
    between = float(((count - 1) * relative).sum() / (count - 1).sum())
    return min(most, 4 + 2 / between) if between > 0 else most
