"""Numbers of sets of users, such as a preference group, with how many users each is of.

Shapes: U users.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.batching.grouping import UserGrouping
from greatmeta_dist.evaluation.metrics.base import Summarised

NOT_FINITE = "the predictions are not finite"
"""Why a number that users count in is undefined."""


def group_summaries(
    models: Mapping[str, Summarised], group: NDArray[np.int32], grouping: UserGrouping
) -> dict[str, Any]:
    """Every number by preference group, for minority and majority, and the gap between the two.

    ``group`` is each user's [U]. The gap of a number is None where either of the two is;
    ``gap_undefined`` says whose.
    """
    minority = grouping.minority
    by_group = {
        name: {**user_summary(models, group == k), "is_minority": k in minority}
        for k, name in enumerate(grouping.names)
        if (group == k).any()
    }
    summaries: dict[str, Any] = {"by_group": by_group}
    is_minority = np.isin(group, minority)
    if is_minority.any() and not is_minority.all():
        summaries["minority"] = user_summary(models, is_minority)
        summaries["majority"] = user_summary(models, ~is_minority)
        majority = summaries["majority"]["models"]
        summaries["gap"] = {
            name: {metric: _difference(v, majority[name].get(metric)) for metric, v in own.items()}
            for name, own in summaries["minority"]["models"].items()
        }
        undefined = {
            number: f"undefined for the {who}"
            for who in ("majority", "minority")
            for number in summaries[who].get("undefined", ())
        }
        summaries |= {"gap_undefined": undefined} if undefined else {}
    return summaries


def user_summary(models: Mapping[str, Summarised], chosen: NDArray[np.bool_]) -> dict[str, Any]:
    """``users``, ``models``, ``counted`` and, where numbers are None, ``undefined``: of the users
    with ``chosen`` [users] true.

    ``counted`` is the last model's, the adapted one. The metrics here leave out the same users for
    every model; another package's may not.
    """
    numbers: dict[str, dict[str, float | None]] = {}
    undefined: dict[str, str] = {}
    counted: dict[str, int] = {}
    for name, metrics in models.items():
        counted = metrics.counted(chosen)
        summary = metrics.summary(chosen)
        # Numbers of no user may stand in ``counted`` alone.
        order = dict.fromkeys((*counted, *summary))
        numbers[name] = finite_or_none({n: summary.get(n, math.nan) for n in order})
        undefined |= {n: _why(metrics, n, counted) for n, v in numbers[name].items() if v is None}
    users = {"users": int(chosen.sum()), "models": numbers, "counted": counted}
    return users | ({"undefined": undefined} if undefined else {})


def _why(metrics: Summarised, number: str, counted: Mapping[str, int]) -> str:
    """Why a number is None."""
    return NOT_FINITE if counted.get(number) else nobody_has(metrics.left_out(number))


def nobody_has(left_out: str) -> str:
    return f"no user counts: each has {left_out}"


def finite_or_none(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """The same numbers, as JSON has them: None for nan and infinity."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _difference(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
