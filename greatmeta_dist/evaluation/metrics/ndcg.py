"""Normalised discounted cumulative gain at several cutoffs, aware of ties.

Shapes: U users; n query rows of all users, end to end; K cutoffs.
"""

from collections.abc import Sequence

import numpy as np

from greatmeta_dist.evaluation.metrics.base import (
    NOTHING_TO_RANK,
    Columns,
    Ints,
    Metric,
    PredictedRows,
    Rows,
)
from greatmeta_dist.evaluation.metrics.ties import SortedRows

CUTOFFS = (1, 3, 5, 10)


class NDCG(Metric):
    """nDCG@k of each user's query rows, then the mean over users with something to rank."""

    is_higher_better = True
    left_out = NOTHING_TO_RANK

    def by_user(self, rows: PredictedRows) -> Columns:
        """nDCG at every cutoff [U, K]; nan for a user with nothing to rank."""
        return {"ndcg": _of_ranked(ndcg(rows.gain, rows.prediction, rows.lengths), rows)}

    def summarise(self, columns: Columns) -> dict[str, float]:
        """``ndcg@k`` for every cutoff; nan without any user who has something to rank."""
        # One array for all cutoffs: the mean over axis 0 adds users one by one, in their order.
        values = columns["ndcg"]
        values = values[~np.isnan(values[:, 0])]
        mean = values.mean(0) if len(values) else np.full(len(CUTOFFS), np.nan)
        return {f"ndcg@{k}": float(v) for k, v in zip(CUTOFFS, mean, strict=True)}

    def count_users(self, columns: Columns) -> dict[str, int]:
        num_users = int((~np.isnan(columns["ndcg"][:, 0])).sum())
        return {f"ndcg@{k}": num_users for k in CUTOFFS}

    def user_values(self, columns: Columns) -> dict[str, Rows]:
        return {f"ndcg@{k}": columns["ndcg"][:, c] for c, k in enumerate(CUTOFFS)}


def ndcg(gain: Rows, score: Rows, lengths: Ints, cutoffs: Sequence[int] = CUTOFFS) -> Rows:
    """nDCG at every cutoff [U, K] of rows with gains [n] ordered by scores [n].

    Gains are linear and discounts log2. Rows with the same score share the mean gain of the ranks
    they take, which is the mean over all orders of theirs (McSherry and Najork, 2008; as
    scikit-learn's ``ndcg_score``). A user without any gain is nan.
    """
    dcg, ideal = _dcg(gain, score, lengths, cutoffs), _dcg(gain, gain, lengths, cutoffs)
    return np.divide(dcg, ideal, out=np.full(dcg.shape, np.nan), where=ideal > 0)


def chance_ndcg(gain: Rows, lengths: Ints) -> Rows:
    """The expected nDCG of a random order [U, K]: that of rows which are all tied."""
    return ndcg(gain, np.zeros_like(gain), lengths)


def chance_of(rows: PredictedRows) -> Rows:
    """``chance_ndcg`` [U, K] of users' query rows; nan for a user with nothing to rank."""
    return _of_ranked(chance_ndcg(rows.gain, rows.lengths), rows)


def _of_ranked(values: Rows, rows: PredictedRows) -> Rows:
    """The values [U, K] of users with something to rank, others nan.

    Where all rows are as good every order scores 1, which tells nothing of a model.
    """
    return np.where(rows.is_ranked[:, None], values, np.nan)


def _dcg(gain: Rows, score: Rows, lengths: Ints, cutoffs: Sequence[int]) -> Rows:
    """Discounted cumulative gain at every cutoff [U, K]."""
    user_index = np.repeat(np.arange(len(lengths)), lengths)
    rows = SortedRows.by(-score, user_index, lengths)
    discounted = rows.mean_over_ties(gain[rows.order]) / np.log2(rows.rank + 2)
    columns = [np.bincount(user_index, discounted * (rows.rank < k), len(lengths)) for k in cutoffs]
    return np.stack(columns, 1).astype(np.float64)  # bincount of no rows gives integers
