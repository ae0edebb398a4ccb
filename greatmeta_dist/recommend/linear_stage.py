"""The first stage of a recommendation: every item's score by inner products alone.

A user's adapted model is only mildly curved over a catalogue, so its tangent is nearly the model.
The rating priors are inner products as they are. So users' scores of all items are two matrix
products, whose item sides are computed once.

Shapes: U users, I items, Di width of an item's features, F numbers of an item in the priors.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from greatmeta_dist.batching.target_transform import LEAST_CHANCE
from greatmeta_dist.data.tasks import Features, TaskTable
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.meta.user_networks import UserNetworks
from greatmeta_dist.ragged import Ints, Ragged

SCORES_PER_SLICE = 1 << 19
"""Made at a time: so many stay in a processor's cache."""
TIE_BREAK = 1e-3
"""How much a score counts beyond the range of ratings. It orders items that all reach its end."""


@dataclass(frozen=True)
class ItemSide:
    """What the first stage takes from the items; of all of them, or of a part."""

    features: Tensor
    """[Di, I]; items stand in columns, which a product with few users reads fastest."""
    prior_mean: Tensor
    """[I] what a rating is expected to be before the model, and before the user's offset."""
    constant: Tensor
    """[I] what the rating priors expect of an item, before the user."""
    vector: Tensor
    """[F, I] an item's numbers in the rating priors."""
    blend_weight: Tensor
    """[I] share of a score that is the priors': 0 of items that they do not know."""

    @classmethod
    def of(cls, scorer: Scorer, features: Tensor) -> "ItemSide":
        """From the features [Di, I] of the whole catalogue."""
        num_items, device = features.shape[1], features.device
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

    def take(self, items: Tensor | slice) -> "ItemSide":
        """Some of the items."""
        return ItemSide(
            self.features[:, items],
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
    def of(cls, scorer: Scorer, features: Tensor) -> "LinearStage":
        items = ItemSide.of(scorer, features)
        return cls(scorer, items, features.mean(1), float(items.prior_mean[0]))

    def restricted(self, items: Tensor) -> "LinearStage":
        """The stage of some of its items, given by position."""
        return replace(self, items=self.items.take(items))

    def scores(self, tasks: TaskTable, networks: UserNetworks) -> Tensor:
        """[U, I] about what ``Scorer.predict`` gives; beyond the range of ratings they go on."""
        slope, constant = networks.linearised(self.centre)
        offset, users = self._offsets(tasks), self._user_vectors(tasks)
        num_items = len(self.items.prior_mean)
        scores = slope.new_empty(len(tasks), num_items)
        items_per_slice = max(1, SCORES_PER_SLICE // len(tasks))
        for start in range(0, num_items, items_per_slice):
            part = slice(start, start + items_per_slice)
            items = self.items.take(part)
            prediction = _products(slope, items.features) + constant
            rating = self._rating(prediction, items.prior_mean + offset)
            if users is not None:
                of_priors = _products(users, items.vector) + items.constant
                bounded = self._bounded(rating)
                scores[:, part] = torch.addcmul(
                    bounded, items.blend_weight, self._bounded(of_priors) - bounded
                )
                rating = torch.addcmul(rating, items.blend_weight, of_priors - rating)
            else:
                scores[:, part] = self._bounded(rating)
            scores[:, part] += TIE_BREAK * (rating - scores[:, part])
        return scores

    def _offsets(self, tasks: TaskTable) -> Tensor:
        """[U, 1] users' offsets: how far they move an item's prior mean, whichever item it is."""
        about_first = tasks.asking(np.zeros((len(tasks), 1), np.int64))
        transform = self.scorer.collator.target_transform
        _, prior_mean = transform.prior_means(about_first, is_training=False)
        return self._tensor(prior_mean - self.first_mean).unsqueeze(1)

    def _user_vectors(self, tasks: TaskTable) -> Tensor | None:
        """[U, F] users' numbers in the rating priors; None where nothing is blended here."""
        if not len(self.items.vector):
            return None
        content_mean = self.scorer.blend.transform.bias.content_mean
        residual = tasks.support_label.values - content_mean[tasks.support_item.values]
        vectors = [p.user_vectors(tasks.support_item, residual) for p in self.scorer.blend.priors]
        return self._tensor(np.concatenate(vectors, 1))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).float().to(self.centre.device)

    def _rating(self, prediction: Tensor, prior_mean: Tensor) -> Tensor:
        """Ratings, or chances, of predictions [U, I]; unbounded."""
        transform = self.scorer.collator.target_transform
        if not transform.is_click:
            return torch.add(prior_mean, prediction, alpha=transform.scale)
        if transform.kind == "rating":
            return prediction.sigmoid()
        chance = prior_mean.clamp(LEAST_CHANCE, 1 - LEAST_CHANCE)
        return prediction.add(chance.logit()).sigmoid()

    def _bounded(self, rating: Tensor) -> Tensor:
        ratings = self.scorer.collator.target_transform.ratings
        return rating.clamp(ratings.lowest, ratings.highest)


def _asking_nobody(items: Ints) -> TaskTable:
    """One user of whom nothing is known, not even features, asked about ``items`` [n].

    Good for what a user's features have no part in, such as prior means.
    """
    nothing = Ragged(np.empty(0, np.int32), np.zeros(2, np.int64))
    ratings = Ragged(np.empty(0, np.float32), nothing.offsets)
    nobody = TaskTable(Features((), (), ()), nothing, ratings, nothing, ratings)
    return nobody.asking(items[None])


def _products(users: Tensor, items: Tensor) -> Tensor:
    """[U, I] inner products of users [U, n] and items [n, I]."""
    if len(users) == 1:
        # With one user there is one vector, and the library's product of a matrix and a vector
        # takes half the time of its product of two matrices.
        return items.mT.mv(users[0]).unsqueeze(0)
    return users @ items
