"""How good a model is: every scenario × {baselines, unadapted, adapted} × metrics, by group."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.batching.grouping import UserGrouping
from greatmeta_dist.data.split import SCENARIOS
from greatmeta_dist.data.store import Store
from greatmeta_dist.evaluation.metrics.base import (
    NOTHING_TO_RANK,
    UserMetrics,
    metric_of,
    registered_metrics,
)
from greatmeta_dist.evaluation.metrics.ndcg import CUTOFFS
from greatmeta_dist.evaluation.scoring import (
    Predicts,
    Progress,
    Scored,
    Scorer,
    no_progress,
    score_split,
)
from greatmeta_dist.evaluation.whole_catalogue import rank_in_catalogue
from greatmeta_dist.evaluation.worst_users import num_worst, worst_summary

NOT_FINITE = "the predictions are not finite"
"""Why a number that users count in is undefined."""


def evaluate(
    scorer: Scorer, store: Store, *, others: Predicts, progress: Progress = no_progress
) -> dict[str, Any]:
    """What ``evaluation.json`` says of the scenarios, in the ratings' units.

    ``{"scenarios": {name: {"users", "models", "chance", "counted", "worst_tenth", "groups"}}}``.
    ``counted`` says how many of the users each number is of. Where a number is None, ``undefined``
    says why. A scenario of clicks also has ``catalogue`` and ``catalogue_counted``. ``others``,
    such as ``Baselines``, are scored beside the model. ``progress`` is called with a scenario and
    the number of its users scored.
    """
    scenarios = {}
    for split in SCENARIOS:
        if store.manifest.splits.get(split):
            scored = score_split(scorer, store, split, others=others, progress=progress)
            assert scored is not None
            scenarios[split] = _scenario(scored, scorer.grouping)
            if store.manifest.is_click:
                scenarios[split] |= _catalogue(scorer, store, split, others)
    return {"scenarios": scenarios, "notes": store.manifest.notes}


def _scenario(scored: Scored, grouping: UserGrouping) -> dict[str, Any]:
    known = scored.chance[~np.isnan(scored.chance[:, 0])]
    chance = known.mean(0) if len(known) else np.full(len(CUTOFFS), np.nan)
    by_cutoff = {f"ndcg@{k}": float(v) for k, v in zip(CUTOFFS, chance, strict=True)}
    return {
        **_user_summary(scored.models, np.full(len(scored.group), True)),
        "chance": finite_or_none(by_cutoff),
        "worst_tenth": _worst_tenth(scored),
        "groups": group_summaries(scored, grouping),
    }


def _worst_tenth(scored: Scored) -> dict[str, Any]:
    """Every metric over the tenth of users for whom it is worst, and how many users these are.

    A number is None where it is None over all users, too.
    """
    worst = {name: finite_or_none(worst_summary(m)) for name, m in scored.models.items()}
    counted = scored.models["adapted"].counted()
    return {"models": worst, "counted": {number: num_worst(n) for number, n in counted.items()}}


def _catalogue(scorer: Scorer, store: Store, split: str, others: Predicts) -> dict[str, Any]:
    ranked = rank_in_catalogue(scorer, store, split, others=others)
    models = {name: finite_or_none(numbers) for name, numbers in ranked.summary().items()}
    num_counted = ranked.num_counted()
    summary: dict[str, Any] = {"catalogue": models, "catalogue_counted": num_counted}
    if not num_counted:
        summary["catalogue_undefined"] = _nobody_has(NOTHING_TO_RANK)
    return summary


def group_summaries(scored: Scored, grouping: UserGrouping) -> dict[str, Any]:
    """Every metric by preference group, for minority and majority, and the gap between the two.

    The gap of a number is None where either of the two is; ``gap_undefined`` says whose.
    """
    minority = grouping.minority
    by_group = {
        name: {**_user_summary(scored.models, scored.group == k), "is_minority": k in minority}
        for k, name in enumerate(grouping.names)
        if (scored.group == k).any()
    }
    summaries: dict[str, Any] = {"by_group": by_group}
    is_minority = np.isin(scored.group, minority)
    if is_minority.any() and not is_minority.all():
        summaries["minority"] = _user_summary(scored.models, is_minority)
        summaries["majority"] = _user_summary(scored.models, ~is_minority)
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


def _user_summary(models: Mapping[str, UserMetrics], chosen: NDArray[np.bool_]) -> dict[str, Any]:
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
        undefined |= {n: _why(n, counted) for n, v in numbers[name].items() if v is None}
    users = {"users": int(chosen.sum()), "models": numbers, "counted": counted}
    return users | ({"undefined": undefined} if undefined else {})


def _why(number: str, counted: Mapping[str, int]) -> str:
    """Why a number is None."""
    if counted.get(number):
        return NOT_FINITE
    return _nobody_has(registered_metrics()[metric_of(number)].left_out)


def _nobody_has(left_out: str) -> str:
    return f"no user counts: each has {left_out}"


def finite_or_none(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """The same numbers, as JSON has them: None for nan and infinity."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _difference(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
