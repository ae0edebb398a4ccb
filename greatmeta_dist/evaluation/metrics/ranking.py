"""How high positive items stand in a ranking: of candidates, or of the whole catalogue.

Of items with the same score every order is as likely. Numbers are the means over all orders.

Shapes: U users; I items of the catalogue; c positive items of all users.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.evaluation.metrics.base import Ints, PredictedRows, Rows
from greatmeta_dist.evaluation.metrics.ndcg import CUTOFFS
from greatmeta_dist.evaluation.metrics.ties import SortedRows


@dataclass(frozen=True)
class RankedPositives:
    """Where users' positive items stand among the items that are ranked for them."""

    num_items: Ints
    """[U] items that are ranked."""
    user: Ints
    """[c] whose each positive is."""
    above: Ints
    """[c] items that score above it."""
    num_tied: Ints
    """[c] items that score as much, itself among them."""
    number: Ints
    """[c] its number among the positives of its tie, from 0."""

    @property
    def num_positives(self) -> Ints:
        """[U]"""
        return np.bincount(self.user, minlength=len(self.num_items))

    @property
    def nan_without_ranks(self) -> Rows:
        """[U] 0; nan for a user with nothing to rank: no positive, or positives alone."""
        num = self.num_positives
        return np.where((num > 0) & (num < self.num_items), 0, np.nan)

    def hit_rate(self, k: int) -> Rows:
        """[U] the chance that any positive is among the first k."""
        # A tie's positives are drawn onto its ranks one by one; each misses those among the first.
        rest = self.num_tied - self._inside(k) - self.number
        misses = np.maximum(rest, 0) / (self.num_tied - self.number)
        has_none = np.ones(len(self.num_items))
        np.multiply.at(has_none, self.user, misses)
        return 1 - has_none

    def recall(self, k: int) -> Rows:
        """[U] the share of the positives that is among the first k."""
        found = np.bincount(self.user, self._inside(k) / self.num_tied, len(self.num_items))
        return found / np.maximum(self.num_positives, 1)

    def ndcg(self, k: int) -> Rows:
        """[U] nDCG of the first k, of gains 1 for positives and 0 for others."""
        total = np.concatenate(([0.0], np.cumsum(1 / np.log2(np.arange(2, 2 + k)))))
        first, last = np.minimum(self.above, k), np.minimum(self.above + self._inside(k), k)
        gain = (total[last] - total[first]) / self.num_tied
        dcg = np.bincount(self.user, gain, len(self.num_items))
        return dcg / total[np.clip(self.num_positives, 1, k)]

    def reciprocal_rank(self) -> Rows:
        """[U] 1 over the rank of the first positive; 0 without any."""
        value = np.zeros(len(self.num_items))
        if not len(self.user):
            return value
        best = np.full(len(self.num_items), np.iinfo(np.int64).max)
        np.minimum.at(best, self.user, self.above)
        is_best = self.above == best[self.user]
        num_in_tie = np.bincount(self.user[is_best], minlength=len(self.num_items))
        users, first = np.unique(self.user[is_best], return_index=True)
        num_tied = self.num_tied[is_best][first]
        for user, tied in zip(users, num_tied, strict=True):
            value[user] = _mean_reciprocal_rank(best[user], tied, num_in_tie[user])
        return value

    def _inside(self, k: int) -> Ints:
        """[c] ranks of the tie that are among the first k."""
        return np.clip(k - self.above, 0, self.num_tied)


def _mean_reciprocal_rank(above: int, num_tied: int, num_positives: int) -> float:
    """The mean of 1/rank of a tie's first positive, over the orders of the tie."""
    if num_tied == num_positives:
        return float(1 / (above + 1))
    # No positive before place j: each of the j places took one of the others.
    place = np.arange(num_tied - num_positives + 1)
    none_here = (num_tied - num_positives - place) / (num_tied - place)
    none_before = np.concatenate(([1.0], np.cumprod(none_here)[:-1]))
    return float((none_before * (1 - none_here) / (above + place + 1)).sum())


def ranking(score: Rows, is_known: NDArray[np.bool_], user: Ints, item: Ints) -> dict[str, Rows]:
    """Hit rate ``hr@k`` and nDCG ``ndcg@k`` of each user's clicked items, [U] each.

    ``score`` and ``is_known`` are [U, I]; items that a user knows are not ranked, and clicks on
    them do not count. ``user`` (ascending) and ``item`` [c] are the distinct clicks to be found.
    A user with nothing to rank, who clicked none of the other items or all of them, is nan.
    """
    ranked = ranked_in_catalogue(score, is_known, user, item)
    metrics: dict[str, Rows] = {}
    for k in CUTOFFS:
        metrics[f"hr@{k}"] = ranked.hit_rate(k) + ranked.nan_without_ranks
        metrics[f"ndcg@{k}"] = ranked.ndcg(k) + ranked.nan_without_ranks
    return metrics


def ranked_in_catalogue(
    score: Rows, is_known: NDArray[np.bool_], user: Ints, item: Ints
) -> RankedPositives:
    """Where positives stand in the catalogue; the arguments as of ``ranking``."""
    is_asked = ~is_known[user, item]
    user, item = user[is_asked], item[is_asked]
    above, num_tied, number = (np.zeros(len(user), np.int64) for _ in range(3))
    for row in np.unique(user):
        of_user = np.flatnonzero(user == row)
        ordered = np.sort(score[row][~is_known[row]])
        positive = score[row, item[of_user]]
        above[of_user] = len(ordered) - np.searchsorted(ordered, positive, side="right")
        num_tied[of_user] = len(ordered) - above[of_user] - np.searchsorted(ordered, positive)
        is_same = positive[:, None] == positive
        number[of_user] = np.tril(is_same, -1).sum(1)
    return RankedPositives((~is_known).sum(1), user, above, num_tied, number)


def ranked_candidates(
    rows: PredictedRows, ranked: SortedRows, is_positive: NDArray[np.bool_]
) -> RankedPositives:
    """Where users' positive query rows stand among their query rows; ``is_positive`` is [n]."""
    positive = is_positive[ranked.order]
    starts = np.flatnonzero(np.diff(ranked.tie, prepend=-1))
    size = np.bincount(ranked.tie)
    earlier: Ints = np.cumsum(positive) - positive
    tie = ranked.tie[positive]
    return RankedPositives(
        rows.lengths,
        rows.user_index[positive],
        ranked.rank[starts[tie]],
        size[tie],
        earlier[positive] - earlier[starts[tie]],
    )
