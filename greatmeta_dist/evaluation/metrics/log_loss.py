"""Binary cross-entropy of predicted chances of a click: what click models are trained on.

Shapes: U users; n query rows of all users, end to end.
"""

import numpy as np

from greatmeta_dist.evaluation.metrics.base import PredictedRows, Rows

LEAST_CHANCE = 1e-6
"""Chances are taken as at least this, and at most 1 less this: one row must not decide."""


def log_loss_of_users(rows: PredictedRows) -> Rows:
    """The sum of −log p(what happened) over each user's rows [U]."""
    chance = np.clip(rows.prediction, LEAST_CHANCE, 1 - LEAST_CHANCE)
    return rows.sum_by_user(-np.log(np.where(rows.rating > 0, chance, 1 - chance)))
