"""Known ratings → evidence of new items, batch by batch: a log of any size needs one pass."""

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.data.known_ratings import KnownRatings
from greatmeta_dist.priors.base import UserRows
from greatmeta_dist.priors.item_evidence import EvidenceModel, Floats, ItemEvidence
from greatmeta_dist.ragged import Ints, Ragged, offsets_of
from greatmeta_dist.recommend.new_items import FeaturesByItem, item_features
from greatmeta_dist.recommend.new_users import NewUsers


@dataclass(frozen=True)
class NewItemEvidence:
    """What ratings say so far of items that training did not have.

    Adding makes a new object. Whatever is added in whatever order, and added up by whomever
    (``+``), gives the same bits; only each user's ratings must be added together, since they say
    how the user's ratings are to be read.
    """

    model: EvidenceModel
    catalogue: NewUsers
    sums: ItemEvidence
    num_rows: int = 0
    """Ratings that were added, of whatever items."""

    @classmethod
    def none(cls, model: EvidenceModel, catalogue: NewUsers) -> "NewItemEvidence":
        """Before any rating."""
        return cls(model, catalogue, ItemEvidence.none(len(model.unit)))

    def add(self, known: KnownRatings) -> "NewItemEvidence":
        """With these users' ratings. Raises ``InputError`` where one is out of range."""
        item = Ragged(self.catalogue.indices(known.item), known.offsets)
        tokens = np.array(known.item)
        return self.add_rows(item, self.catalogue.labels(known), lambda rows: tokens[rows])

    def add_rows(
        self, item: Ragged, rating: Floats, token_of: Callable[[Ints], NDArray]
    ) -> "NewItemEvidence":
        """With the ratings [n] of the users of ``item``, which has indices.

        Those beyond the catalogue are of new items. ``token_of`` gives the items of some rows.
        """
        num_users, index = len(item.lengths), item.values
        user = np.repeat(np.arange(num_users), item.lengths)
        bias = self.model.bias
        num_items = len(bias.item_count)
        is_trained = bias.item_count[np.minimum(index, num_items - 1)] > 0
        is_trained &= index < num_items
        is_new = np.flatnonzero(~is_trained)
        num_rows = self.num_rows + len(index)
        if not len(is_new):
            return replace(self, num_rows=num_rows)
        # In the order of the catalogue, so that a user's sums do not depend on how a log is sorted.
        order = np.lexsort((index, user))
        order = order[is_trained[order]]
        lengths = np.bincount(user[order], minlength=num_users)
        trained = UserRows(Ragged(index[order], offsets_of(lengths)), rating[order])
        more = self.model.evidence(trained, user[is_new], token_of(is_new), rating[is_new])
        return replace(self, sums=self.sums + more, num_rows=num_rows)

    def __add__(self, other: "NewItemEvidence") -> "NewItemEvidence":
        return replace(self, sums=self.sums + other.sums, num_rows=self.num_rows + other.num_rows)

    @property
    def unclicked(self) -> float:
        """Rows of label 0 that a preparation would have drawn of each item beside these clicks.

        0 where labels are ratings, or clicks among rows that are none.
        """
        manifest = self.catalogue.catalogue.manifest
        if not manifest.is_implicit:
            return 0.0
        drawn: int = manifest.recipe["negatives"]
        return drawn * self.num_rows / manifest.num_items

    @property
    def items(self) -> list[str]:
        """Tokens of the items that were rated."""
        return [str(token) for token in self.sums.item]

    @property
    def num_ratings(self) -> int:
        """Ratings of new items so far."""
        return int(self.sums.count.sum())


def added_items(items: Any, evidence: NewItemEvidence, added: Collection[str]) -> FeaturesByItem:
    """The items that are to stand behind the catalogue's: ``items`` as ``item_features`` reads
    them, or those that the evidence names where that is None.

    Items of the catalogue are left out: it knows their features. Warns of ratings of items that
    are neither there, nor named, nor ``added`` before.
    """
    index_of = evidence.catalogue.index_of
    rated = [token for token in evidence.items if token not in index_of]
    if items is None:
        return {token: {} for token in rated if token not in added}
    features = {t: f for t, f in item_features(items).items() if t not in index_of}
    missing = [token for token in rated if token not in features and token not in added]
    if missing:
        warnings.warn(
            f"ratings of {len(missing)} items that neither the catalogue nor the given items name "
            f"are not used; the first is {missing[0]}",
            stacklevel=4,
        )
    return features
