"""The first stage of a recommendation: every item's score by inner products alone.

A user's adapted model is only mildly curved over a catalogue, so its tangent is nearly the model.
The rating priors are inner products as they are. So users' scores of all items are two matrix
products, whose item sides are computed once.

Shapes: U users, I items, Di width of an item's features, F numbers of an item in the priors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from greatmeta_dist.batching.target_transform import LEAST_CHANCE, Floats
from greatmeta_dist.data.tasks import Features, TaskTable
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.meta.user_networks import UserNetworks
from greatmeta_dist.ragged import Ints, Ragged
from greatmeta_dist.recommend.item_features import ItemFeatures, add_products

SCORES_PER_SLICE = 1 << 19
"""Made at a time: so many stay in a processor's cache."""
TIE_BREAK = 1e-3
"""How much a score counts beyond the range of ratings. It orders items that all reach its end."""


@dataclass(frozen=True)
class ItemSide:
    """What the first stage takes from the items; of all of them, or of a part."""

    features: ItemFeatures
    """What the model sees of them."""
    prior_mean: Tensor
    """[I] what a rating is expected to be before the model, and before the user's offset."""
    constant: Tensor
    """[I] what the rating priors expect of an item, before the user."""
    vector: Tensor
    """[F, I] an item's numbers in the rating priors."""
    blend_weight: Tensor
    """[I] share of a score that is the priors': 0 of items that they do not know."""

    @classmethod
    def of(cls, scorer: Scorer, features: ItemFeatures) -> "ItemSide":
        """From the features of the whole catalogue."""
        num_items, device = features.num_items, scorer.worker.device
        transform, blend = scorer.collator.target_transform, scorer.blend
        everything = _asking_nobody(np.arange(num_items))
        _, prior_mean = transform.prior_means(everything, is_training=False)
        constant, weight = transform.bias.content_mean[:num_items].copy(), np.zeros(num_items)
        vectors = [np.zeros((num_items, 0))]
        items = [prior.item_vectors(num_items) for prior in blend.priors]
        known = [one for one in items if one is not None]
        if known and len(known) == len(items):
            weight = blend.weight * np.min([one.known for one in known], 0)
            constant += sum(one.constant for one in known) / len(known)
            vectors = [one.vector / len(known) for one in known]

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).float().to(device)

        vector = tensor(np.concatenate(vectors, 1).T)
        return cls(features, tensor(prior_mean), tensor(constant), vector, tensor(weight))

    def take(self, items: Tensor) -> "ItemSide":
        """Some of the items [n]."""
        return ItemSide(
            self.features.take(items),
            self.prior_mean[items],
            self.constant[items],
            self.vector[:, items],
            self.blend_weight[items],
        )


@dataclass(frozen=True)
class LinearStage:
    """Scores items approximately.

    A rating prior that is no inner product is left out of it.
    """

    scorer: Scorer
    items: ItemSide
    centre: Tensor
    """[Di] the mean item, where tangents are taken."""
    first_mean: float
    """``prior_mean`` of the catalogue's first item, from which users' offsets are told."""

    @classmethod
    def of(cls, scorer: Scorer, features: ItemFeatures) -> "LinearStage":
        items = ItemSide.of(scorer, features)
        return cls(scorer, items, features.mean(), float(items.prior_mean[0]))

    def restricted(self, items: Tensor) -> "LinearStage":
        """The stage of some of its items, given by position."""
        return replace(self, items=self.items.take(items))

    def scores(
        self, tasks: TaskTable, networks: UserNetworks, user_vectors: Sequence[Floats] | None
    ) -> Tensor:
        """[U, I] about what ``Scorer.predict`` gives; beyond the range of ratings they go on.

        ``user_vectors`` are as the method of that name gives them.
        """
        slope, constant = networks.linearised(self.centre)
        users = None if user_vectors is None else self._tensor(np.concatenate(user_vectors, 1))
        items, ratings = self.items, self._ratings(slope, constant, self._offsets(tasks))
        scores = slope.new_empty(len(tasks), items.features.num_items)
        items_per_slice = max(1, SCORES_PER_SLICE // len(tasks))
        for start in range(0, scores.shape[1], items_per_slice):
            part = slice(start, start + items_per_slice)
            of_model = self._scored(ratings(part))
            if users is None:
                scores[:, part] = of_model
            else:
                of_priors = items.constant[part].repeat(len(tasks), 1)
                add_products(of_priors, users, items.vector[:, part])
                weight = items.blend_weight[part]
                torch.lerp(of_model, self._scored(of_priors), weight, out=scores[:, part])
        return scores

    def _ratings(
        self, slope: Tensor, constant: Tensor, offset: Tensor
    ) -> Callable[[slice], Tensor]:
        """A function that gives the model's ratings, or chances, [U, n] of a part of the items.

        They are unbounded. ``slope`` [U, Di] and ``constant`` [U, 1] are of the users' tangents.
        """
        transform, prior_mean = self.scorer.collator.target_transform, self.items.prior_mean
        add = self.items.features.adder(slope * transform.scale)
        constant = constant * transform.scale

        def ratings(part: slice) -> Tensor:
            if not transform.is_click:
                rating = prior_mean[part] + (constant + offset)
                add(rating, part)
                return rating
            if transform.kind == "rating":
                logit = constant.repeat(1, len(prior_mean[part]))
            else:
                chance = prior_mean[part] + offset
                logit = chance.clamp_(LEAST_CHANCE, 1 - LEAST_CHANCE).logit_().add_(constant)
            add(logit, part)
            return logit.sigmoid_()

        return ratings

    def _scored(self, rating: Tensor) -> Tensor:
        """Scores of unbounded ratings: bounded, but for a little."""
        ratings = self.scorer.collator.target_transform.ratings
        return rating.clamp(ratings.lowest, ratings.highest).lerp_(rating, TIE_BREAK)

    def _offsets(self, tasks: TaskTable) -> Tensor:
        """[U, 1] users' offsets: how far they move an item's prior mean, whichever item it is."""
        about_first = tasks.asking(np.zeros((len(tasks), 1), np.int64))
        transform = self.scorer.collator.target_transform
        _, prior_mean = transform.prior_means(about_first, is_training=False)
        return self._tensor(prior_mean - self.first_mean).unsqueeze(1)

    def user_vectors(self, tasks: TaskTable) -> list[Floats] | None:
        """By rating prior, [U, F] users' numbers; None where this stage has no prior."""
        return self.scorer.blend.user_vectors(tasks) if len(self.items.vector) else None

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).float().to(self.centre.device)


def _asking_nobody(items: Ints) -> TaskTable:
    """One user of whom nothing is known, not even features, asked about ``items`` [n].

    Good for what a user's features have no part in, such as prior means.
    """
    nothing = Ragged(np.empty(0, np.int32), np.zeros(2, np.int64))
    ratings = Ragged(np.empty(0, np.float32), nothing.offsets)
    nobody = TaskTable(Features((), (), ()), nothing, ratings, nothing, ratings)
    return nobody.asking(items[None])
