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

    def summary(self, chosen: NDArray[np.bool_] | None = None) -> dict[str, float]:
        """MAE and RMSE over rows, nDCG@k over users."""
        if chosen is None:
            chosen = np.ones(len(self.count), bool)
        rows = max(int(self.count[chosen].sum()), 1)
        with_rows = chosen & (self.count > 0)
        ndcg = self.ndcg[with_rows].mean(0) if with_rows.any() else np.full(len(CUTOFFS), np.nan)
        return {
            "mae": float(self.absolute[chosen].sum() / rows),
            "rmse": float(np.sqrt(self.squared[chosen].sum() / rows)),
            **{f"ndcg@{k}": float(v) for k, v in zip(CUTOFFS, ndcg, strict=True)},
        }


def measure(rating: Rows, prediction: Rows, lengths: Ints, *, lowest: float) -> UserMetrics:
    """Score predictions of users' rows end to end, ``lengths`` [users] of them each."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    error = prediction - rating
    return UserMetrics(
        count=lengths,
        absolute=_per_user(np.abs(error), owner, lengths),
        squared=_per_user(error**2, owner, lengths),
        ndcg=ndcg(rating - min(0.0, lowest), prediction, lengths),
    )


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
            for n in ("count", "absolute", "squared", "ndcg")
        )
    )
