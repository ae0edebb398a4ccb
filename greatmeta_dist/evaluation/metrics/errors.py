"""Mean absolute error and root mean squared error, over the query rows of all users.

Every row counts the same, so a user counts by its number of rows.
"""

import numpy as np

from greatmeta_dist.evaluation.metrics.base import Columns, Metric, PredictedRows, Rows


class MAE(Metric):
    """Mean absolute error, in the ratings' units."""

    is_higher_better = False
    left_out = "no row"

    def by_user(self, rows: PredictedRows) -> Columns:
        """Each user's sum of absolute errors [U] and number of rows [U]."""
        error = rows.prediction - rows.rating
        return {"absolute_error": rows.sum_by_user(np.abs(error)), "num_rows": rows.lengths}

    def summarise(self, columns: Columns) -> dict[str, float]:
        return {"mae": float(_row_mean(columns, "absolute_error"))}

    def count_users(self, columns: Columns) -> dict[str, int]:
        return {"mae": int((columns["num_rows"] > 0).sum())}

    def user_values(self, columns: Columns) -> dict[str, Rows]:
        return {"mae": _mean_of_each(columns, "absolute_error")}


class RMSE(Metric):
    """Root mean squared error, in the ratings' units."""

    is_higher_better = False
    left_out = "no row"

    def by_user(self, rows: PredictedRows) -> Columns:
        """Each user's sum of squared errors [U] and number of rows [U]."""
        error = rows.prediction - rows.rating
        return {"squared_error": rows.sum_by_user(error**2), "num_rows": rows.lengths}

    def summarise(self, columns: Columns) -> dict[str, float]:
        return {"rmse": float(np.sqrt(_row_mean(columns, "squared_error")))}

    def count_users(self, columns: Columns) -> dict[str, int]:
        return {"rmse": int((columns["num_rows"] > 0).sum())}

    def user_values(self, columns: Columns) -> dict[str, Rows]:
        return {"rmse": np.sqrt(_mean_of_each(columns, "squared_error"))}


def _row_mean(columns: Columns, name: str) -> np.float64:
    """The mean over rows of what a column sums by user; nan without any row."""
    num_rows = int(columns["num_rows"].sum())
    return columns[name].sum() / num_rows if num_rows else np.float64(np.nan)


def _mean_of_each(columns: Columns, name: str) -> Rows:
    """Each user's mean over its own rows [U]; nan for a user without rows."""
    num_rows = columns["num_rows"]
    none = np.full(len(num_rows), np.nan)
    return np.divide(columns[name], num_rows, out=none, where=num_rows > 0)
