"""The best items of the whole catalogue for many users, and every item's score.

Scores are those of ``Scorer.predict``. The best ones are found in two stages:

1. *Linear* (``linear_stage``): every item is scored by inner products, nearly right.
2. *Exact*: the best items of the first stage are scored exactly. How far the first stage was off
   there tells whether an item that it left out could belong to the best. If so, more are taken.

Shapes: U users, I items, Di width of an item's features, N items of a user that are scored exactly.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.errors import require
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.meta.user_networks import UserNetworks
from greatmeta_dist.ragged import Ragged
from greatmeta_dist.recommend.item_features import ItemFeatures
from greatmeta_dist.recommend.linear_stage import LinearStage

MIN_CANDIDATES, CANDIDATES_PER_ITEM = 64, 4
"""Items scored exactly at first: at least so many, and so many for each one asked for."""
GROWTH = 8
"""How many times more they become where those were too few."""
SAFETY = 2.0
"""The first stage may be off by so many times what it was off among the candidates."""
ITEMS_PER_SLICE = 2048
"""Scored exactly at a time, where all are: hidden layers stay in a processor's cache."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class TopItems(NamedTuple):
    """The best items of one user, the best first."""

    item: Ints
    """Indices into the catalogue."""
    score: Floats
    """Predicted ratings, or chances of a click."""


@dataclass(frozen=True)
class AdaptedUsers:
    """Users with what is computed of them once, however many items are scored."""

    tasks: TaskTable
    networks: UserNetworks
    vectors: list[Floats] | None
    """By rating prior, [U, F] users' numbers in it; None where priors are asked item by item."""

    def take(self, users: Ints) -> "AdaptedUsers":
        """The chosen users."""
        at = torch.from_numpy(users).to(self.networks.output.device)
        vectors = None if self.vectors is None else [vector[users] for vector in self.vectors]
        return AdaptedUsers(self.tasks.take(users), self.networks.take(at), vectors)


@dataclass(frozen=True)
class CatalogueScorer:
    """A model with all that its predictions take from the items at hand; safe among threads."""

    scorer: Scorer
    item: Ints
    """[I] the items' indices in the catalogue, ascending; all of it, or a part (``restricted``)."""
    linear: LinearStage

    @classmethod
    def of(cls, scorer: Scorer, num_items: int) -> "CatalogueScorer":
        """Look up, pool and compute what the first ``num_items`` items of the scorer give."""
        linear = LinearStage.of(scorer, ItemFeatures.of(scorer, num_items))
        return cls(scorer, np.arange(num_items), linear)

    def restricted(self, items: Ints) -> "CatalogueScorer":
        """The scorer of some of its items, given by their indices in the catalogue."""
        chosen = np.flatnonzero(np.isin(self.item, items))
        at = torch.from_numpy(chosen).to(self.linear.centre.device)
        return replace(self, item=self.item[chosen], linear=self.linear.restricted(at))

    @torch.inference_mode()
    def scores(self, tasks: TaskTable) -> Floats:
        """[U, I] the predicted rating of every item (of clicks, the chance), after adaptation.

        The query sets of ``tasks`` are not read.
        """
        users = self._adapted(tasks)
        everything = torch.arange(len(self.item)).expand(len(tasks), -1)
        slices = everything.split(ITEMS_PER_SLICE, 1)
        return np.concatenate([self._exact(users, part) for part in slices], 1)

    @torch.inference_mode()
    def top(self, tasks: TaskTable, k: int, *, exclude: Ragged | None = None) -> list[TopItems]:
        """Each user's k best items; fewer where there are fewer.

        ``exclude`` holds, for each user, indices of items that it must not get. Equal scores are
        ordered by what they would be without the bounds of ratings, then by index.
        """
        if not len(self.item):
            return [TopItems(np.empty(0, np.int64), np.empty(0))] * len(tasks)
        users = self._adapted(tasks)
        approximate = self.linear.scores(tasks, users.networks, users.vectors)
        if exclude is not None:
            self._strike_out(approximate, exclude)
        found: dict[int, TopItems] = {}
        num_candidates, number = max(MIN_CANDIDATES, CANDIDATES_PER_ITEM * k), [*range(len(tasks))]
        while True:
            num_candidates = min(num_candidates, len(self.item))
            best = approximate.topk(num_candidates, dim=1)
            exact = self._exact(users, best.indices)
            near, index = best.values.cpu().numpy(), best.indices.cpu().numpy()
            for row, user in enumerate(number):
                is_all = num_candidates == len(self.item)
                if is_all or self._is_enough(exact[row], near[row], k):
                    found[user] = self._ranked(exact[row], near[row], index[row], k)
            left = np.array([row for row, user in enumerate(number) if user not in found], np.int64)
            if not len(left):
                return [found[user] for user in range(len(tasks))]
            number = [number[row] for row in left]
            users = users.take(left)
            approximate = approximate[torch.from_numpy(left).to(approximate.device)]
            num_candidates *= GROWTH

    def _is_enough(self, exact: Floats, near: NDArray[np.float32], k: int) -> bool:
        """Whether no item outside of the candidates [N] can have a better score than the k-th.

        ``near`` are the first stage's scores, descending; struck out items have −inf.
        """
        is_allowed = np.isfinite(near)
        if is_allowed.sum() < len(near):
            return True  # all that are allowed are here
        error = np.abs(exact - near).max()
        bound = min(float(near[-1] + SAFETY * error), self._highest)
        return bool(np.partition(exact, -k)[-k] >= bound)

    @property
    def _highest(self) -> float:
        """No score is above this."""
        return self.scorer.collator.target_transform.ratings.highest

    def _ranked(self, exact: Floats, near: NDArray[np.float32], index: Ints, k: int) -> TopItems:
        order = np.lexsort((index, -near, -exact))
        order = order[np.isfinite(near[order])][:k]
        return TopItems(self.item[index[order]], exact[order])

    def _adapted(self, tasks: TaskTable) -> AdaptedUsers:
        """Raises ``InputError`` where a prediction is no function of one item."""
        model = self.scorer.worker.model
        require(
            model.context == "support" or not model.has_encoder,
            "this run has model.context=own, so what it predicts of an item depends on what else "
            "is asked, and no item is best; ask for the scores of certain items, or train with "
            "model.context=support",
        )
        unasked = tasks.asking(np.empty((len(tasks), 0), np.int64))
        networks = self.scorer.worker.adapted_networks(self.scorer.collated(unasked))
        return AdaptedUsers(tasks, networks, self.linear.user_vectors(tasks))

    def _exact(self, users: AdaptedUsers, index: Tensor) -> Floats:
        """[U, N] scores of each user's items ``index`` [U, N], positions among the I."""
        num_users, num_items = index.shape
        features = self.linear.items.features
        columns = features.columns(index.flatten().to(self.linear.centre.device))
        columns = columns.view(-1, num_users, num_items).transpose(0, 1)
        prediction = users.networks.predict(columns).flatten().cpu().numpy()
        asked = users.tasks.asking(self.item[index.cpu().numpy()])
        rating = self.scorer.collator.target_transform.to_rating(asked)(prediction)
        blended = self.scorer.blend.apply(asked, {"adapted": rating}, users=users.vectors)
        return blended["adapted"].reshape(num_users, num_items)

    def _strike_out(self, scores: Tensor, items: Ragged) -> None:
        """Make the scores [U, I] of each user's items −inf, in place."""
        user = np.repeat(np.arange(len(items.lengths)), items.lengths)
        position = np.minimum(np.searchsorted(self.item, items.values), len(self.item) - 1)
        is_here = self.item[position] == items.values
        at = (torch.from_numpy(user[is_here]), torch.from_numpy(position[is_here]))
        scores[at[0].to(scores.device), at[1].to(scores.device)] = -torch.inf
