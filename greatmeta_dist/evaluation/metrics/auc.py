"""Area under the ROC curve of clicks, user by user.

Shapes: U users; n query rows of all users, end to end.
"""

import numpy as np

from greatmeta_dist.evaluation.metrics.base import (
    NOTHING_TO_RANK,
    Columns,
    Metric,
    PredictedRows,
)
from greatmeta_dist.evaluation.metrics.ties import SortedRows


class AUC(Metric):
    """The chance that a user's clicked row scores above one not clicked; the mean over users."""

    is_higher_better = True
    left_out = NOTHING_TO_RANK

    def applies(self, rows: PredictedRows) -> bool:
        """Only to clicks: ratings have no two classes."""
        return rows.is_click

    def by_user(self, rows: PredictedRows) -> Columns:
        """AUC [U], ties counting half; nan for a user whose rows are all of one class."""
        click, lengths = rows.rating, rows.lengths
        in_order = SortedRows.by(rows.prediction, rows.user_index, lengths)
        rank = np.empty(len(click))
        rank[in_order.order] = in_order.mean_over_ties(in_order.rank) + 1
        clicks = rows.sum_by_user(click)
        pairs = clicks * (lengths - clicks)
        # The Mann-Whitney statistic: clicked rows' ranks, less those they have among themselves.
        above = rows.sum_by_user(rank * click) - clicks * (clicks + 1) / 2
        area = np.divide(above, pairs, out=np.full(len(lengths), np.nan), where=pairs > 0)
        return {"auc": area}
