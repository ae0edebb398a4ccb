"""What ratings say of items that training did not have, as sums over ratings.

The sums are all that is kept of a log. They are of whole numbers: every term is rounded to a
multiple of a fixed unit. Whole numbers add up to the same in any order, so the sums do not depend
on how users are cut into batches, nor on who adds up which.

Shapes: U users, n ratings of new items, J new items, S starts of the factorisation, K numbers kept
of an item.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from greatmeta_dist.priors.base import UserRows
from greatmeta_dist.priors.bayesian_mf_items import ItemFolding
from greatmeta_dist.priors.bayesian_mf_model import FoldedItems
from greatmeta_dist.priors.bias import BiasModel
from greatmeta_dist.priors.new_item_prior import NewItemPrior
from greatmeta_dist.ragged import Ragged, offsets_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
UNIT = 2.0**-34
"""Of a sum whose terms are of about unit size: 134 million terms of up to 4 units fit."""
MAX_UNITS = 2.0**44
"""Terms are cut off there. None is nearly as large, and sums cannot overflow by one of them."""
RATINGS_PER_BLOCK = 4096
"""Worked on at a time. It bounds memory: of each rating K numbers are made."""


@dataclass(frozen=True)
class ItemEvidence:
    """Sums over the ratings of some items, by item; ``+`` adds up any two."""

    item: NDArray
    """[J] what items are called, ascending: texts, or whole numbers."""
    count: Ints
    """[J] ratings of each."""
    units: Ints
    """[J, K] the sums, in units of ``EvidenceModel.unit``."""

    @classmethod
    def none(cls, width: int, item: NDArray | None = None) -> "ItemEvidence":
        """The sums over no ratings; ``item`` has no items either, and says what they are called."""
        names = np.empty(0, np.str_) if item is None else item
        return cls(names, np.empty(0, np.int64), np.empty((0, width), np.int64))

    def __add__(self, other: "ItemEvidence") -> "ItemEvidence":
        if not len(other.item):
            return self
        if not len(self.item):
            return other
        item, index = np.unique(np.concatenate((self.item, other.item)), return_inverse=True)
        count = np.zeros(len(item), np.int64)
        units = np.zeros((len(item), self.units.shape[1]), np.int64)
        for one, rows in ((self, index[: len(self.item)]), (other, index[len(self.item) :])):
            count[rows] += one.count
            units[rows] += one.units
        return ItemEvidence(item, count, units)

    def of(self, items: NDArray) -> "ItemEvidence":
        """The sums of ``items`` [m], in their order; zeros for those without ratings."""
        count = np.zeros(len(items), np.int64)
        units = np.zeros((len(items), self.units.shape[1]), np.int64)
        if len(self.item) and len(items):
            at = np.minimum(np.searchsorted(self.item, items), len(self.item) - 1)
            is_here = self.item[at] == items
            count[is_here], units[is_here] = self.count[at[is_here]], self.units[at[is_here]]
        return ItemEvidence(items, count, units)


@dataclass(frozen=True)
class NewItemPosterior:
    """What is known of new items [J] after their ratings."""

    offset: Floats
    """[J] how far their mean lies from what content predicts; exactly 0 without ratings."""
    factors: list[FoldedItems]
    """[S] their numbers in each start of the factorisation."""


@dataclass(frozen=True)
class EvidenceModel:
    """Turns ratings of new items into evidence, and evidence into posteriors.

    A rating is read by what its user is known for: his ratings of items that training had say how
    much he gives in general, and what he likes. Ratings of other new items say nothing of a user.
    """

    bias: BiasModel
    prior: NewItemPrior
    foldings: Sequence[ItemFolding]
    """[S]"""
    centre: float
    """A number amid the ratings. Sums are about it, for content means may be known later."""

    @cached_property
    def unit(self) -> Floats:
        """[K] units of the sums: of w, w·e, w·e², r, then for each start of h̄ h̄ᵀ and of r h̄."""
        # A power of two, so that a unit is exact. Ratings, offsets and d are of about this size.
        scale = 2.0 ** np.ceil(np.log2(max(self.prior.noise, 1e-12)) / 2)
        unit = [np.array([1.0, scale, scale**2, scale])]
        for folding in self.foldings:
            h = np.ones(folding.width)
            h[1] = scale
            unit += [folding.packing.outer(h[None])[0], scale * h]
        return np.concatenate(unit) * UNIT

    def evidence(self, known: UserRows, user: Ints, item: NDArray, rating: Floats) -> ItemEvidence:
        """Sums over n ratings of new items: ``user`` [n], ascending, ``item`` and ``rating`` [n].

        ``known`` has the U users' ratings of items that training had.
        """
        total = ItemEvidence.none(len(self.unit), item[:0])
        first = 0
        while first < len(user):
            # Whole users, so that a user's own numbers are made once.
            last = int(
                np.searchsorted(user, user[min(first + RATINGS_PER_BLOCK, len(user)) - 1], "right")
            )
            block = slice(first, last)
            users, index = np.unique(user[block], return_inverse=True)
            rows = Ragged(known.item.values, known.item.offsets)
            positions, lengths = rows.positions(users)
            of_users = UserRows(
                Ragged(known.item.values[positions], offsets_of(lengths)), known.rating[positions]
            )
            total += self._block(of_users, index, item[block], rating[block])
            first = last
        return total

    def _block(self, known: UserRows, user: Ints, item: NDArray, rating: Floats) -> ItemEvidence:
        distinct, index = np.unique(item, return_inverse=True)
        terms = np.rint(
            np.clip(self._terms(known, user, rating) / self.unit, -MAX_UNITS, MAX_UNITS)
        )
        pattern = sparse.csr_matrix(
            (np.ones(len(user), np.int64), (index, np.arange(len(user)))),
            (len(distinct), len(user)),
        )
        return ItemEvidence(distinct, np.bincount(index), pattern @ terms.astype(np.int64))

    def _terms(self, known: UserRows, user: Ints, rating: Floats) -> Floats:
        """[n, K] what each rating adds to its item's sums."""
        about_centre = rating - self.centre
        weight, offset = self._weights(known)
        weight, error = weight[user], about_centre - offset[user]
        terms = [np.stack([weight, weight * error, weight * error**2, about_centre], 1)]
        residual = known.rating - self.bias.content_mean[known.item.values]
        for folding in self.foldings:
            of_user = folding.user_terms(known.item, residual)[user]
            terms += [of_user, about_centre[:, None] * of_user[:, : folding.width]]
        return np.concatenate(terms, 1)

    @cached_property
    def _unclicked_terms(self) -> Floats:
        """[K] what a rating of 0 adds by a user of whom nothing is known."""
        nobody = UserRows(Ragged(np.empty(0, np.int64), np.zeros(2, np.int64)), np.empty(0))
        terms: Floats = self._terms(nobody, np.zeros(1, np.int64), np.zeros(1))[0]
        return terms

    def _weights(self, known: UserRows) -> tuple[Floats, Floats]:
        """[U] how much a rating by each user counts, and the user's offset.

        Of an offset from k ratings the variance is noise / (k + damping). It adds to the noise.
        """
        lengths = known.item.lengths
        about_items = known.rating - self.bias.item_means(known.item.values)
        certainty = lengths + self.bias.user_damping
        return certainty / (certainty + 1), self.bias.user_offsets(about_items, lengths)

    def plain_means(self, evidence: ItemEvidence) -> tuple[Floats, Floats]:
        """For baselines, two means of an item's ratings about ``centre`` [J], 0 without ratings:
        of the ratings, and of the ratings less their users' offsets."""
        sums = evidence.units[:, :4] * self.unit[:4]
        weight = np.where(sums[:, 0] > 0, sums[:, 0], 1.0)
        return sums[:, 3] / np.maximum(evidence.count, 1), sums[:, 1] / weight

    def posterior(
        self, evidence: ItemEvidence, index: Ints, content_mean: Floats, *, unclicked: float = 0.0
    ) -> NewItemPosterior:
        """What is known of the evidence's items [J].

        ``index`` [J] are their indices in the catalogue, ascending, and their content means are
        given [J].

        ``unclicked`` is for logs that hold clicks alone: the rows of label 0, by anybody, that a
        preparation would have drawn of each item beside its clicks.
        """
        sums = evidence.units * self.unit
        if unclicked:
            sums += unclicked * self._unclicked_terms
        shift = content_mean - self.centre
        # Σ w (e − c) and Σ w (e − c)² from sums about 0.
        weight, total, squares = sums[:, 0], sums[:, 1], sums[:, 2]
        squares = squares - shift * (2 * total - shift * weight)
        offset = self.prior.offsets(evidence.count, weight, total - shift * weight, squares)
        factors, at = [], 4
        for folding in self.foldings:
            packed = len(folding.packing.row)
            user_squares = sums[:, at : at + packed]
            linear = sums[:, at + packed : at + packed + folding.width]
            linear = linear - shift[:, None] * user_squares[:, : folding.width]
            factors.append(
                folding.posterior(user_squares, linear, index, offset_variance=self.prior.variance)
            )
            at += packed + folding.width
        return NewItemPosterior(offset, factors)
