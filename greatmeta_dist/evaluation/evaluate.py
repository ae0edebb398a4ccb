"""How good a model is: every scenario × {baselines, unadapted, adapted} × metrics, by group."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.batching.grouping import UserGrouping
from greatmeta_dist.data.split import SCENARIOS
from greatmeta_dist.data.store import Store
from greatmeta_dist.evaluation.catalogue import catalogue_summary
from greatmeta_dist.evaluation.metrics.ndcg import CUTOFFS
from greatmeta_dist.evaluation.scoring import (
    Predicts,
    Progress,
    Scored,
    Scorer,
    no_progress,
    score_split,
)


def evaluate(
    scorer: Scorer, store: Store, *, others: Predicts, progress: Progress = no_progress
) -> dict[str, Any]:
    """``{"scenarios": {name: {"users", "models", "chance", "groups"}}}``, in the ratings' units.

    A scenario of clicks also has ``catalogue``. ``others``, such as ``Baselines``, are scored
    beside the model. ``progress`` is called with a scenario and the number of its users scored.
    """
    scenarios = {}
    for split in SCENARIOS:
        if store.manifest.splits.get(split):
            scored = score_split(scorer, store, split, others=others, progress=progress)
            assert scored is not None
            scenarios[split] = _scenario(scored, scorer.grouping)
            if store.manifest.is_click:
                scenarios[split]["catalogue"] = catalogue_summary(
                    scorer, store, split, others=others
                )
    return {"scenarios": scenarios, "notes": store.manifest.notes}


def _scenario(scored: Scored, grouping: UserGrouping) -> dict[str, Any]:
    chance = np.nanmean(scored.chance, axis=0)
    return {
        "users": len(scored.group),
        "models": {name: metrics.summary() for name, metrics in scored.models.items()},
        "chance": {f"ndcg@{k}": float(v) for k, v in zip(CUTOFFS, chance, strict=True)},
        "groups": group_summaries(scored, grouping),
    }


def group_summaries(scored: Scored, grouping: UserGrouping) -> dict[str, Any]:
    """Every metric by preference group, for minority and majority, and the gap between the two."""

    def summary(chosen: NDArray[np.bool_]) -> dict[str, Any]:
        models = {name: m.summary(chosen) for name, m in scored.models.items()}
        return {"users": int(chosen.sum()), "models": models}

    minority = grouping.minority
    by_group = {
        name: {**summary(scored.group == k), "is_minority": k in minority}
        for k, name in enumerate(grouping.names)
        if (scored.group == k).any()
    }
    summaries: dict[str, Any] = {"by_group": by_group}
    is_minority = np.isin(scored.group, minority)
    if is_minority.any() and not is_minority.all():
        summaries["minority"], summaries["majority"] = summary(is_minority), summary(~is_minority)
        majority = summaries["majority"]["models"]
        summaries["gap"] = {
            name: {
                metric: value - majority[name][metric]
                for metric, value in metrics.items()
                if metric in majority[name]
            }
            for name, metrics in summaries["minority"]["models"].items()
        }
    return summaries
