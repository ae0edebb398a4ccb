"""What lists of items are judged by: recall, hit rate, nDCG, MRR, coverage and novelty.

A list is the first k items of a user's ranking, of the query candidates or of the whole catalogue.
Users' values are kept, so that any set of users can be summarised.

Shapes: U users; n query rows of all users, end to end; I items of the catalogue; K cutoffs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.evaluation.metrics.base import (
    NOTHING_TO_RANK,
    Ints,
    PredictedRows,
    Rows,
    metric_of,
)
from greatmeta_dist.evaluation.metrics.ndcg import ndcg
from greatmeta_dist.evaluation.metrics.ranking import (
    RankedPositives,
    ranked_candidates,
    ranked_in_catalogue,
)
from greatmeta_dist.evaluation.metrics.ties import SortedRows

NO_POSITIVE = "no positive item, or positive items alone"
NO_LIST = "no item to recommend"


@dataclass(frozen=True)
class ListSettings:
    """What makes a list, and what it is worth."""

    cutoffs: tuple[int, ...]
    """[K] ascending."""
    positive_at: float
    """Lowest rating that counts as positive; of clicks anything above 0."""
    information: Rows
    """[I + 1] −log2 of each item's share of what training users did; see ``item_information``."""

    @property
    def num_items(self) -> int:
        """I"""
        return len(self.information) - 1


def item_information(count: Ints) -> Rows:
    """−log2 of each item's share of all training interactions [I + 1], from its count [I].

    An item without any counts as if it had one. So does an item that is not in the catalogue: the
    last entry.
    """
    return -np.log2(np.maximum(np.append(count, 0), 1) / max(int(count.sum()), 1))


@dataclass(frozen=True)
class UserLists:
    """The values of U users' lists; any set of these users can be summarised."""

    cutoffs: tuple[int, ...]
    num_items: int
    """I, of which ``coverage@k`` is a share."""
    means: dict[str, Rows]
    """By number, each user's value [U]; nan for a user it does not tell anything of."""
    top: NDArray[np.int32]
    """[U, largest k] the items of the list, the best first; −1 beyond its end."""

    is_higher_better: ClassVar[bool] = True

    def summary(self, chosen: NDArray[np.bool_] | None = None) -> dict[str, float]:
        """Numbers by name over the users with ``chosen`` [U] true, or over all."""
        values = {name: v if chosen is None else v[chosen] for name, v in self.means.items()}
        top = self.top if chosen is None else self.top[chosen]
        numbers = {name: _mean_of_known(v) for name, v in values.items()}
        return numbers | {f"coverage@{k}": self._coverage(top[:, :k]) for k in self.cutoffs}

    def counted(self, chosen: NDArray[np.bool_] | None = None) -> dict[str, int]:
        """How many of the users of ``summary`` each number is of."""
        values = {name: v if chosen is None else v[chosen] for name, v in self.means.items()}
        top = self.top if chosen is None else self.top[chosen]
        counts = {name: int((~np.isnan(v)).sum()) for name, v in values.items()}
        return counts | {f"coverage@{k}": int((top[:, 0] >= 0).sum()) for k in self.cutoffs}

    def by_user(self) -> dict[str, Rows]:
        """Every user's own value of each number [U]; coverage is none of a single user."""
        return self.means

    def left_out(self, number: str) -> str:
        """What a user has, or lacks, whom a number is not of."""
        metric = metric_of(number)
        if metric in ("coverage", "novelty"):
            return NO_LIST
        return NOTHING_TO_RANK if metric == "ndcg" else NO_POSITIVE

    def _coverage(self, top: NDArray[np.int32]) -> float:
        """The share of the catalogue that stands in any of the lists; nan without a list."""
        items = np.unique(top[(top >= 0) & (top < self.num_items)])
        return len(items) / self.num_items if len(items) else float("nan")


def join_lists_of_users(batches: Sequence[UserLists]) -> UserLists:
    """The users of all batches, in order."""
    first = batches[0]
    return UserLists(
        first.cutoffs,
        first.num_items,
        {name: np.concatenate([b.means[name] for b in batches]) for name in first.means},
        np.concatenate([b.top for b in batches]),
    )


def lists_of_candidates(rows: PredictedRows, item: Ints, settings: ListSettings) -> UserLists:
    """Users' query rows [n], of these items, as lists."""
    ranked = SortedRows.by(-rows.prediction, rows.user_index, rows.lengths)
    is_positive = rows.rating > 0 if rows.is_click else rows.rating >= settings.positive_at
    positives = ranked_candidates(rows, ranked, is_positive)
    gains = ndcg(rows.gain, rows.prediction, rows.lengths, settings.cutoffs)
    gains = np.where(rows.is_ranked[:, None], gains, np.nan)
    information = ranked.mean_over_ties(settings.information[item][ranked.order])
    novelty = {}
    for k in settings.cutoffs:
        total = rows.sum_by_user(information * (ranked.rank < k))
        length = np.minimum(rows.lengths, k)
        none = np.full(len(length), np.nan)
        novelty[k] = np.divide(total, length, out=none, where=length > 0)
    longest = max(settings.cutoffs)
    top = np.full((len(rows.lengths), longest), -1, np.int32)
    is_top = ranked.rank < longest
    top[rows.user_index[is_top], ranked.rank[is_top]] = item[ranked.order][is_top]
    by_cutoff = dict(zip(settings.cutoffs, gains.T, strict=True))
    return _user_lists(settings, positives, by_cutoff, novelty, top)


def lists_of_catalogue(
    score: Rows, is_known: NDArray[np.bool_], user: Ints, item: Ints, settings: ListSettings
) -> UserLists:
    """The catalogue's items as lists, without those that their user knows.

    ``score`` and ``is_known`` are [U, I]; ``user`` (ascending) and ``item`` [c] are the distinct
    positive items.
    """
    positives = ranked_in_catalogue(score, is_known, user, item)
    longest = max(settings.cutoffs)
    top = np.full((len(score), longest), -1, np.int32)
    novelty = {k: np.full(len(score), np.nan) for k in settings.cutoffs}
    for row, (values, known) in enumerate(zip(score, is_known, strict=True)):
        ranked = np.flatnonzero(~known)
        ranked = ranked[np.argsort(-values[ranked], kind="stable")]
        top[row, : min(longest, len(ranked))] = ranked[:longest]
        for k, value in _novelty(-values[ranked], settings.information[ranked], novelty).items():
            novelty[k][row] = value
    gains = {k: positives.ndcg(k) + positives.nan_without_ranks for k in settings.cutoffs}
    return _user_lists(settings, positives, gains, novelty, top)


def _novelty(ascending: Rows, information: Rows, cutoffs: dict[int, Rows]) -> dict[int, float]:
    """The mean information of one user's first k items, and over the orders of those tied there.

    ``ascending`` are scores, the other way round, of the items in their order.
    """
    total = np.concatenate(([0.0], np.cumsum(information)))
    means = {}
    for k in cutoffs:
        length = min(k, len(ascending))
        if not length:
            continue
        last = ascending[length - 1]
        first, stop = (int(np.searchsorted(ascending, last, s)) for s in ("left", "right"))
        of_tie = (total[stop] - total[first]) / (stop - first)
        means[k] = float((total[first] + (length - first) * of_tie) / length)
    return means


def _user_lists(
    settings: ListSettings,
    positives: RankedPositives,
    gains: dict[int, Rows],
    novelty: dict[int, Rows],
    top: NDArray[np.int32],
) -> UserLists:
    has_ranks = positives.nan_without_ranks
    means = {f"recall@{k}": positives.recall(k) + has_ranks for k in settings.cutoffs}
    means |= {f"hr@{k}": positives.hit_rate(k) + has_ranks for k in settings.cutoffs}
    means |= {f"ndcg@{k}": gains[k] for k in settings.cutoffs}
    means["mrr"] = positives.reciprocal_rank() + has_ranks
    means |= {f"novelty@{k}": novelty[k] for k in settings.cutoffs}
    return UserLists(settings.cutoffs, settings.num_items, means, top)


def _mean_of_known(values: Rows) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
