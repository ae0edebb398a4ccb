"""How high clicked items stand in the whole catalogue.

These are no registered metrics: they need a score for every item, not only for the query rows.

Shapes: U users; I items of the catalogue; c clicks of all users.
"""

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.evaluation.metrics.base import Ints, Rows
from greatmeta_dist.evaluation.metrics.ndcg import CUTOFFS


def ranking(score: Rows, is_known: NDArray[np.bool_], user: Ints, item: Ints) -> dict[str, Rows]:
    """Hit rate ``hr@k`` and nDCG ``ndcg@k`` of each user's clicked items, [U] each.

    ``score`` and ``is_known`` are [U, I]; items that a user knows are not ranked, and clicks on
    them do not count. ``user`` (ascending) and ``item`` [c] are the distinct clicks to be found.
    Of items with the same score every order is as likely: numbers are the means over all orders. A
    user with nothing to rank, who clicked none of the other items or all of them, is nan.
    """
    num_users = len(score)
    is_asked = ~is_known[user, item]
    user, item = user[is_asked], item[is_asked]
    num_clicks = np.bincount(user, minlength=num_users)
    num_items = (~is_known).sum(1)
    nan_without_ranks = np.where((num_clicks > 0) & (num_clicks < num_items), 0, np.nan)
    above, num_tied, number = _ties_of_clicks(score, is_known, user, item)
    discounts = 1 / np.log2(np.arange(2, 2 + max(CUTOFFS)))
    total = np.concatenate(([0.0], np.cumsum(discounts)))
    metrics: dict[str, Rows] = {}
    for k in CUTOFFS:
        inside = np.clip(k - above, 0, num_tied)  # ranks of the tie among the first k
        # A tie's clicks are drawn onto its ranks one by one; each misses those among the first k.
        misses = np.maximum(num_tied - inside - number, 0) / (num_tied - number)
        has_none = np.ones(num_users)
        np.multiply.at(has_none, user, misses)
        first, last = np.minimum(above, k), np.minimum(above + inside, k)
        dcg = np.bincount(user, (total[last] - total[first]) / num_tied, num_users)
        metrics[f"hr@{k}"] = 1 - has_none + nan_without_ranks
        metrics[f"ndcg@{k}"] = dcg / total[np.clip(num_clicks, 1, k)] + nan_without_ranks
    return metrics


def _ties_of_clicks(
    score: Rows, is_known: NDArray[np.bool_], user: Ints, item: Ints
) -> tuple[Ints, Ints, Ints]:
    """Of each click [c]: items that score above it, items that score as much, itself among them,
    and its number among the clicks of that tie, from 0."""
    above, num_tied, number = (np.zeros(len(user), np.int64) for _ in range(3))
    for row in np.unique(user):
        of_user = np.flatnonzero(user == row)
        ordered = np.sort(score[row][~is_known[row]])
        clicked = score[row, item[of_user]]
        above[of_user] = len(ordered) - np.searchsorted(ordered, clicked, side="right")
        num_tied[of_user] = len(ordered) - above[of_user] - np.searchsorted(ordered, clicked)
        is_same = clicked[:, None] == clicked
        number[of_user] = np.tril(is_same, -1).sum(1)
    return above, num_tied, number
