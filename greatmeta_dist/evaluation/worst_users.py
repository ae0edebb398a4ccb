"""How a model serves the users whom it serves worst: the tenth with the worst values of a metric.

No groups are needed, and every metric and every model has a worst tenth of its own: the mean over
them is the conditional value at risk of the metric over users.

Shapes: U users.
"""

import math

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.evaluation.metrics.base import (
    Rows,
    UserMetrics,
    metric_of,
    registered_metrics,
)

WORST_SHARE = 0.1


def num_worst(num_counted: int) -> int:
    """How many users the worst tenth of so many users is: rounded up."""
    # Rounded first, because a tenth is no binary number: 0.1 · 30 is a little above 3.
    return math.ceil(round(WORST_SHARE * num_counted, 9))


def is_worst(values: Rows, *, is_higher_better: bool) -> NDArray[np.bool_]:
    """Which users [U] are the worst tenth of those with a value [U]; nan is no value.

    Of users with the same value, those that come first.
    """
    badness = np.where(np.isnan(values), -np.inf, -values if is_higher_better else values)
    worst = np.argsort(-badness, kind="stable")[: num_worst(int((~np.isnan(values)).sum()))]
    chosen = np.zeros(len(values), bool)
    chosen[worst] = True
    return chosen


def worst_summary(metrics: UserMetrics) -> dict[str, float]:
    """Each number of ``UserMetrics.summary``, over the tenth of users for whom it is worst.

    Who they are differs from number to number. nan without any user who has a value.
    """
    numbers: dict[str, float] = {}
    for number, values in metrics.by_user().items():
        metric = registered_metrics()[metric_of(number)]
        chosen = is_worst(values, is_higher_better=metric.is_higher_better)
        numbers[number] = metrics.of(metric_of(number), chosen).get(number, math.nan)
    return numbers
