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

    ``score`` and ``is_known`` are [U, I]; items that a user knows are not ranked. ``user`` and
    ``item`` [c] are the clicks to be found. Tied items count as half above. A user without clicks
    is nan.
    """
    num_users = len(score)
    rank = _click_ranks(np.where(is_known, -np.inf, score), user, item)
    num_clicks = np.bincount(user, minlength=num_users)
    nan_without_clicks = np.where(num_clicks > 0, 0, np.nan)
    discounts = 1 / np.log2(np.arange(2, 2 + max(CUTOFFS)))
    ideal = np.concatenate(([0.0], np.cumsum(discounts)))
    metrics: dict[str, Rows] = {}
    for k in CUTOFFS:
        is_hit = rank < k
        has_hit = np.bincount(user, is_hit, num_users) > 0
        dcg = np.bincount(user, np.where(is_hit, 1 / np.log2(rank + 2), 0), num_users)
        metrics[f"hr@{k}"] = has_hit.astype(np.float64) + nan_without_clicks
        metrics[f"ndcg@{k}"] = dcg / ideal[np.clip(num_clicks, 1, k)] + nan_without_clicks
    return metrics


def _click_ranks(score: Rows, user: Ints, item: Ints) -> Rows:
    """Rank from 0 of each click [c] among its user's items; half ranks where items are tied."""
    rank = np.empty(len(user))
    for click, (row, of_item) in enumerate(zip(user, score[user, item], strict=True)):
        num_tied = (score[row] == of_item).sum() - 1
        rank[click] = (score[row] > of_item).sum() + num_tied / 2
    return rank
