"""The bias model: shrunk item means and user offsets.

All who need a bias model take this one. The target transform subtracts it from ratings before the
model sees them, the baselines predict with it, and other priors are fitted to what it leaves.

Shapes: I items of the catalogue, U users, n rows (ratings).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.config.priors import BiasConfig, PriorsConfig
from greatmeta_dist.priors.base import Prior, Progress, State, TrainingRows, UserRows
from greatmeta_dist.priors.content_model import ContentModel
from greatmeta_dist.priors.new_item_prior import NewItemPrior, item_components
from greatmeta_dist.priors.variance_components import VarianceComponents

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BiasModel:
    """Predicts a rating as its item's shrunk mean plus its user's shrunk offset."""

    item_count: NDArray[np.int64]
    """[I] training ratings of each item."""
    item_sum: Floats
    """[I] their sum."""
    content_mean: Floats
    """[I] mean rating that the item's features predict; the item's mean is shrunk towards it."""
    item_damping: float
    """Ratings' worth of prior, at ``content_mean``, of an item's mean."""
    user_damping: float
    """Ratings' worth of prior, at 0, of a user's offset."""
    new_item_offset: Floats | None = None
    """[I] how far ratings after the training move an item's mean; 0 of items that training had.
    None where there are none."""

    def item_means(self, item: NDArray, *, without: Floats | None = None) -> Floats:
        """Shrunk means of items [n].

        ``without`` [n] are training ratings, one of each item, and each is left out of its item's
        mean: a target that is learnt from must not hold a part of its own answer.
        """
        count, content = self.item_count[item].astype(np.float64), self.content_mean[item]
        total = self.item_sum[item] - content * count
        if without is not None:
            count, total = count - 1, total - (without - content)
        mean = content + total / (count + self.item_damping)
        return mean if self.new_item_offset is None else mean + self.new_item_offset[item]

    def with_items(self, content_mean: Floats) -> "BiasModel":
        """The model with further items behind the others, which nobody rated: [m] content means."""
        nothing = np.zeros(len(content_mean))
        offset = self.new_item_offset
        return replace(
            self,
            item_count=np.append(self.item_count, nothing.astype(np.int64)),
            item_sum=np.append(self.item_sum, nothing),
            content_mean=np.append(self.content_mean, content_mean),
            new_item_offset=None if offset is None else np.append(offset, nothing),
        )

    def user_offsets(self, residual: Floats, lengths: NDArray[np.int64]) -> Floats:
        """Shrunk means [U] of users' residuals [n], ``lengths`` [U] of each, user by user."""
        user = np.repeat(np.arange(len(lengths)), lengths)
        offsets: Floats = np.bincount(user, residual, len(lengths)) / (lengths + self.user_damping)
        return offsets

    def training_residuals(self, rows: UserRows) -> Floats:
        """What item means and user offsets leave of training ratings [n]."""
        about_items = self.about_item_means(rows)
        offset = self.user_offsets(about_items, rows.item.lengths)
        residual: Floats = about_items - offset[rows.user]
        return residual

    def about_item_means(self, rows: UserRows) -> Floats:
        """Training ratings [n] less their items' means, each mean without the rating itself."""
        residual: Floats = rows.rating - self.item_means(rows.item.values, without=rows.rating)
        return residual


class BiasPrior(Prior):
    """The bias model, its content means and dampings fitted to the log.

    With it comes what is needed of items that training did not have: the regression that predicts
    them from their features, and what their offset from that prediction is expected to be.
    """

    version = 2

    def __init__(self, model: BiasModel, content: ContentModel, new_items: NewItemPrior):
        self.model = model
        self.content = content
        self.new_items = new_items

    @classmethod
    def fit(
        cls,
        rows: TrainingRows,
        options: PriorsConfig,
        *,
        fitted: Mapping[str, Any],
        progress: Progress,
    ) -> Self:
        # Here, for scikit-learn takes long to import, and a saved prior is used without it.
        from greatmeta_dist.priors.content import content_means

        progress("content regression", 0)
        # The regression weighs items by how far their means are known. This takes a damping before
        # there are content means, so the first one is about the mean of all ratings.
        about_mean = _item_damping(rows, np.full(rows.num_items, rows.mean), options.bias)
        content = content_means(
            rows.features,
            rows.item_count,
            rows.item_sum,
            damping=about_mean,
            options=options.content,
            seed=options.seed,
        )
        progress("biases", 0)
        items_only = BiasModel(
            rows.item_count,
            rows.item_sum,
            content.means,
            item_damping=_item_damping(rows, content.means, options.bias),
            user_damping=options.bias.max_damping,
        )
        users = _user_components(rows, items_only, options.bias, progress)
        new_items = NewItemPrior.fit(
            rows, content.held_out, content.held_out_means, users.within_groups(), options.bias
        )
        model = replace(items_only, user_damping=users.damping(options.bias))
        return cls(model, content.model, new_items)

    def state(self) -> State:
        model = self.model
        arrays = {
            "item_count": model.item_count,
            "item_sum": model.item_sum,
            "content_mean": model.content_mean,
        }
        of_content, content = self.content.state()
        details = {
            "item_damping": model.item_damping,
            "user_damping": model.user_damping,
            "content": content,
            "new_items": asdict(self.new_items),
        }
        return arrays | {f"content.{name}": a for name, a in of_content.items()}, details

    @classmethod
    def from_state(
        cls, arrays: dict[str, NDArray], details: dict[str, Any], *, fitted: Mapping[str, Any]
    ) -> Self:
        model = BiasModel(
            arrays["item_count"],
            arrays["item_sum"],
            arrays["content_mean"],
            details["item_damping"],
            details["user_damping"],
        )
        of_content = {
            name.removeprefix("content."): array
            for name, array in arrays.items()
            if name.startswith("content.")
        }
        content = ContentModel.from_state(of_content, details["content"])
        return cls(model, content, NewItemPrior(**details["new_items"]))


def _item_damping(rows: TrainingRows, content_mean: Floats, options: BiasConfig) -> float:
    """Damping of item means about ``content_mean`` [I], from each item's sums."""
    return item_components(rows, np.arange(rows.num_items), content_mean).damping(options)


def _user_components(
    rows: TrainingRows, model: BiasModel, options: BiasConfig, progress: Progress
) -> VarianceComponents:
    """Variance of ratings about the means of the items, within and between users."""
    components, num_done = VarianceComponents(), 0
    for chunk in rows.first_users(max_ratings=options.max_ratings):
        residual, user = model.about_item_means(chunk), chunk.user
        components.add(
            chunk.item.lengths,
            np.bincount(user, residual, len(chunk)),
            np.bincount(user, residual**2, len(chunk)),
        )
        num_done += len(chunk.rating)
        progress("biases", num_done / min(rows.num_ratings, options.max_ratings))
    return components
