"""The bias model: shrunk item means and user offsets. It serves all who need one.

The target transform takes it off ratings before the model sees them, the baselines predict with it,
and the other priors are fitted to what it leaves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.config.priors import PriorsConfig
from greatmeta_dist.priors.base import Prior, Progress, State, TrainingRows, UserRows
from greatmeta_dist.priors.variance_components import VarianceComponents

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BiasModel:
    """What a rating is expected to be before anything is learnt: item mean and user offset."""

    item_count: NDArray[np.int64]
    """[I] training ratings of each item."""
    item_sum: Floats
    """[I] their sum."""
    content_mean: Floats
    """[I] what the item's features predict, which its mean is shrunk towards."""
    item_damping: float
    """Ratings' worth of prior of an item's mean."""
    user_damping: float
    """Ratings' worth of prior, at 0, of a user's offset."""

    def item_means(self, item: NDArray, *, without: Floats | None = None) -> Floats:
        """Shrunk means of items [n].

        ``without`` [n] are training ratings of these items that are to be left out of them: what
        is learnt from a rating may not know it.
        """
        count, content = self.item_count[item].astype(np.float64), self.content_mean[item]
        total = self.item_sum[item] - content * count
        if without is not None:
            count, total = count - 1, total - (without - content)
        return content + total / (count + self.item_damping)

    def user_offsets(self, residual: Floats, lengths: NDArray[np.int64]) -> Floats:
        """Shrunk means [U] of users' residuals [n]; ``lengths`` [U] rows of each, end to end."""
        user = np.repeat(np.arange(len(lengths)), lengths)
        offsets: Floats = np.bincount(user, residual, len(lengths)) / (lengths + self.user_damping)
        return offsets

    def training_residuals(self, rows: UserRows) -> Floats:
        """What item means, without the rating itself, and user offsets leave of ratings [n]."""
        residual = rows.rating - self.item_means(rows.item.values, without=rows.rating)
        offsets: Floats = residual - self.user_offsets(residual, rows.item.lengths)[rows.user]
        return offsets


class BiasPrior(Prior):
    """The bias model, its content means and dampings fitted to the log."""

    def __init__(self, model: BiasModel):
        self.model = model

    @classmethod
    def fit(
        cls,
        rows: TrainingRows,
        options: PriorsConfig,
        *,
        fitted: Mapping[str, Any],
        progress: Progress,
    ) -> Self:
        from greatmeta_dist.priors.content import content_means

        progress("content regression", 0)

        def item_damping(content_mean: Floats) -> float:
            """Of item means about what features predict."""
            total = rows.item_sum - content_mean * rows.item_count
            squares = rows.item_squares - content_mean * (rows.item_sum + total)
            components = VarianceComponents()
            components.add(rows.item_count, total, squares)
            return components.damping(options.bias)

        content_mean = content_means(
            rows.features,
            rows.item_count,
            rows.item_sum,
            damping=item_damping(np.full(rows.num_items, rows.mean)),
            options=options.content,
            seed=options.seed,
        )
        without_users = BiasModel(
            rows.item_count, rows.item_sum, content_mean, item_damping(content_mean), 0.0
        )
        progress("biases", 0)
        damping = _user_damping(rows, without_users, options, progress)
        return cls(
            BiasModel(
                rows.item_count,
                rows.item_sum,
                content_mean,
                without_users.item_damping,
                damping,
            )
        )

    def state(self) -> State:
        model = self.model
        arrays = {
            "item_count": model.item_count,
            "item_sum": model.item_sum,
            "content_mean": model.content_mean,
        }
        return arrays, {"item_damping": model.item_damping, "user_damping": model.user_damping}

    @classmethod
    def from_state(
        cls, arrays: dict[str, NDArray], details: dict[str, Any], *, fitted: Mapping[str, Any]
    ) -> Self:
        return cls(
            BiasModel(
                arrays["item_count"],
                arrays["item_sum"],
                arrays["content_mean"],
                details["item_damping"],
                details["user_damping"],
            )
        )


def _user_damping(
    rows: TrainingRows, model: BiasModel, options: PriorsConfig, progress: Progress
) -> float:
    """Of users' offsets from the means of the items they rated."""
    components, num_done = VarianceComponents(), 0
    for chunk in rows.first_users(max_ratings=options.bias.max_ratings):
        residual = chunk.rating - model.item_means(chunk.item.values, without=chunk.rating)
        user = chunk.user
        components.add(
            chunk.item.lengths,
            np.bincount(user, residual, len(chunk)),
            np.bincount(user, residual**2, len(chunk)),
        )
        num_done += len(chunk.rating)
        progress("biases", num_done / min(rows.num_ratings, options.bias.max_ratings))
    return components.damping(options.bias)
