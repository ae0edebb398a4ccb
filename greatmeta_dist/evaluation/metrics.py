"""Rating and ranking metrics over many users at once; users' rows stand end to end."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CUTOFFS = (1, 3, 5, 10)

Rows = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class UserMetrics:
    """Each user's share of every metric; sums of users give the metrics of any set of them."""

    count: Ints
    """[users] query rows."""
    absolute: Rows
    """[users] sum of absolute errors."""
    squared: Rows
    """[users] sum of squared errors."""
    ndcg: Rows
    """[users, cutoffs]; nan for a user without query rows."""
    auc: Rows
    """[users] chance that a row of the higher label scores above one of the lower, of labels 0 and
    1; nan for a user with one of them only, or with others."""

    def summary(self, chosen: NDArray[np.bool_] | None = None) -> dict[str, float]:
        """MAE and RMSE over rows, nDCG@k over users."""
        if chosen is None:
            chosen = np.ones(len(self.count), bool)
        rows = max(int(self.count[chosen].sum()), 1)
        with_rows = chosen & (self.count > 0)
        ndcg = self.ndcg[with_rows].mean(0) if with_rows.any() else np.full(len(CUTOFFS), np.nan)
        found = {
            "mae": float(self.absolute[chosen].sum() / rows),
            "rmse": float(np.sqrt(self.squared[chosen].sum() / rows)),
            **{f"ndcg@{k}": float(v) for k, v in zip(CUTOFFS, ndcg, strict=True)},
        }
        has_both = chosen & ~np.isnan(self.auc)
        return found | ({"auc": float(self.auc[has_both].mean())} if has_both.any() else {})


def measure(
    rating: Rows, prediction: Rows, lengths: Ints, *, lowest: float, is_click: bool = False
) -> UserMetrics:
    """Score predictions of users' rows end to end, ``lengths`` [users] of them each."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    error = prediction - rating
    return UserMetrics(
        count=lengths,
        absolute=_per_user(np.abs(error), owner, lengths),
        squared=_per_user(error**2, owner, lengths),
        ndcg=ndcg(rating - min(0.0, lowest), prediction, lengths),
        auc=auc(rating, prediction, owner, lengths) if is_click else np.full(len(lengths), np.nan),
    )


def auc(click: Rows, score: Rows, owner: Ints, lengths: Ints) -> Rows:
    """Area under each user's ROC curve [users], from mean ranks; nan where all labels are one."""
    order = np.lexsort((score, owner))
    place = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    is_new = np.ones(len(owner), bool)
    is_new[1:] = (score[order][1:] != score[order][:-1]) | (owner[1:] != owner[:-1])
    tie = np.cumsum(is_new) - 1
    rank = np.empty(len(owner))
    if len(owner):
        rank[order] = (np.bincount(tie, place) / np.bincount(tie))[tie] + 1
    clicks = _per_user(click, owner, lengths)
    others = lengths - clicks
    above = _per_user(rank * click, owner, lengths) - clicks * (clicks + 1) / 2
    pairs = clicks * others
    return np.divide(above, pairs, out=np.full(len(lengths), np.nan), where=pairs > 0)


def ranking(
    score: Rows, is_known: NDArray[np.bool_], user: Ints, item: Ints
) -> dict[str, NDArray[np.float64]]:
    """How high each user's clicked items stand in the whole catalogue: hit rate and nDCG, [users].

    ``score`` and ``is_known`` [users, items]; known items are left out. ``user``, ``item`` [clicks]
    are what should be found. Ties count as half above. nan for a user with nothing to find.
    """
    score = np.where(is_known, -np.inf, score)
    rank = np.empty(len(user))
    for k, (row, own) in enumerate(zip(user, score[user, item], strict=True)):
        rank[k] = (score[row] > own).sum() + ((score[row] == own).sum() - 1) / 2
    num_users = len(score)
    clicks = np.bincount(user, minlength=num_users)
    found: dict[str, NDArray[np.float64]] = {}
    ideal = np.concatenate(([0.0], np.cumsum(1 / np.log2(np.arange(2, 2 + max(CUTOFFS))))))
    for k in CUTOFFS:
        is_hit = rank < k
        hits = np.bincount(user, is_hit, num_users) > 0
        gain = np.bincount(user, np.where(is_hit, 1 / np.log2(rank + 2), 0), num_users)
        best = ideal[np.clip(clicks, 1, k)]
        nothing = np.where(clicks > 0, 0, np.nan)
        found[f"hr@{k}"] = hits.astype(np.float64) + nothing
        found[f"ndcg@{k}"] = gain / best + nothing
    return found


def _per_user(values: Rows, owner: Ints, lengths: Ints) -> Rows:
    return np.bincount(owner, values, len(lengths)).astype(np.float64)


def ndcg(gain: Rows, score: Rows, lengths: Ints) -> Rows:
    """nDCG at every cutoff, [users, cutoffs]: linear gains, log2 discounts, aware of ties.

    Rows with the same score share the mean gain of the places they take (McSherry and Najork, 2008;
    as scikit-learn's ``ndcg_score``). A user whose gains are all zero scores 0.
    """
    dcg, ideal = _dcg(gain, score, lengths), _dcg(gain, gain, lengths)
    out = np.divide(dcg, ideal, out=np.zeros_like(dcg), where=ideal > 0)
    out[lengths == 0] = np.nan
    return out


def chance_ndcg(gain: Rows, lengths: Ints) -> Rows:
    """The expected nDCG of a random order, [users, cutoffs]."""
    return ndcg(gain, np.zeros_like(gain), lengths)


def _dcg(gain: Rows, score: Rows, lengths: Ints) -> Rows:
    owner = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((-score, owner))
    gain, score = gain[order], score[order]
    place = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    starts_tie = np.ones(len(owner), bool)
    starts_tie[1:] = (score[1:] != score[:-1]) | (owner[1:] != owner[:-1])
    tie = np.cumsum(starts_tie) - 1
    mean_gain = np.bincount(tie, gain) / np.maximum(np.bincount(tie), 1) if len(tie) else gain
    term = (mean_gain[tie] if len(tie) else gain) / np.log2(place + 2)
    columns = [np.bincount(owner, term * (place < k), len(lengths)) for k in CUTOFFS]
    return np.stack(columns, 1)


def join(parts: list[UserMetrics]) -> UserMetrics:
    """The users of all parts, in order."""
    return UserMetrics(
        *(
            np.concatenate([getattr(p, n) for p in parts])
            for n in ("count", "absolute", "squared", "ndcg", "auc")
        )
    )
