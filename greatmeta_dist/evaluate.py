"""How good a model is: every scenario × {baselines, unadapted, adapted} × metrics, by group."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.baselines import BASELINES, Baselines
from greatmeta_dist.engine.worker import Worker
from greatmeta_dist.metrics import CUTOFFS, UserMetrics, chance_ndcg, join, measure
from greatmeta_dist.tasks.batch import TaskTable
from greatmeta_dist.tasks.lanes import BatchMaker, read_part
from greatmeta_dist.tasks.split import SCENARIOS
from greatmeta_dist.tasks.store import FieldChoice, Store

USERS_PER_BATCH = 256
MODELS = (*BASELINES, "unadapted", "adapted")


class Predictor(Protocol):
    """Whatever is scored beside the model, such as ``Baselines``."""

    def predict(self, tasks: TaskTable) -> dict[str, NDArray[np.float64]]:
        """By name: the predicted rating of every query row, users' rows end to end."""


Progress = Callable[[str, int, int], None]
"""Told the scenario, the users done and the users in all."""


@dataclass(frozen=True)
class Scored:
    """One part's users, scored by every model."""

    models: dict[str, UserMetrics]
    group: NDArray[np.int32]
    chance: NDArray[np.float64]
    """[users, cutoffs] expected nDCG of a random order."""


def score_part(
    worker: Worker,
    store: Store,
    maker: BatchMaker,
    choice: FieldChoice,
    part: str,
    *,
    baselines: Predictor | None = None,
    given: Callable[[TaskTable], TaskTable] = lambda tasks: tasks,
    progress: Progress = lambda part, done, users: None,
) -> Scored:
    """Predict every query row of a part, users in batches; ``given`` may cut what is known."""
    lowest = store.manifest.ratings.lowest
    found: dict[str, list[UserMetrics]] = {}
    group, chance, done = [], [], 0
    for users in read_part(store, part, choice, users_per_batch=USERS_PER_BATCH):
        tasks = given(users.tasks)
        batch = maker.make(tasks)
        mask = batch.query.share.numpy() > 0
        predictions = dict(baselines.predict(tasks)) if baselines else {}
        for name, found_rows in zip(("unadapted", "adapted"), worker.predict(batch), strict=True):
            rows = found_rows.cpu().numpy()[mask]
            predictions[name] = maker.labels.to_rating(rows, tasks)
        rating = tasks.query_label.values.astype(np.float64)
        lengths = tasks.query_label.lengths
        for name, values in predictions.items():
            scored = measure(rating, values, lengths, lowest=lowest)
            found.setdefault(name, []).append(scored)
        group.append(users.group)
        chance.append(chance_ndcg(rating - min(0.0, lowest), lengths))
        done += len(users)
        progress(part, done, store.manifest.parts[part])
    return Scored(
        {name: join(parts) for name, parts in found.items()},
        np.concatenate(group),
        np.concatenate(chance),
    )


def evaluate(
    worker: Worker,
    store: Store,
    maker: BatchMaker,
    choice: FieldChoice,
    progress: Progress = lambda part, done, users: None,
) -> dict[str, Any]:
    """``{"scenarios": {name: {"users", "models", "chance", "groups"}}}``, in the ratings' units."""
    baselines = Baselines.of(store)
    scenarios = {}
    for part in SCENARIOS:
        if store.manifest.parts.get(part):
            scored = score_part(
                worker, store, maker, choice, part, baselines=baselines, progress=progress
            )
            scenarios[part] = _scenario(scored, store)
    return {"scenarios": scenarios, "notes": store.manifest.notes}


def _scenario(scored: Scored, store: Store) -> dict[str, Any]:
    chance = np.nanmean(scored.chance, axis=0)
    return {
        "users": len(scored.group),
        "models": {name: scored.models[name].summary() for name in MODELS},
        "chance": {f"ndcg@{k}": float(v) for k, v in zip(CUTOFFS, chance, strict=True)},
        "groups": group_summaries(scored, store.manifest.groups, store.manifest.minority),
    }


def group_summaries(scored: Scored, names: list[str], minority: list[int]) -> dict[str, Any]:
    """Every metric by preference group, of minority and majority, and the gap between the two."""

    def summary(chosen: NDArray[np.bool_]) -> dict[str, Any]:
        models = {name: m.summary(chosen) for name, m in scored.models.items()}
        return {"users": int(chosen.sum()), "models": models}

    by_group = {
        name: {**summary(scored.group == k), "is_minority": k in minority}
        for k, name in enumerate(names)
        if (scored.group == k).any()
    }
    is_minority = np.isin(scored.group, minority)
    out: dict[str, Any] = {"by_group": by_group}
    if is_minority.any() and not is_minority.all():
        out["minority"], out["majority"] = summary(is_minority), summary(~is_minority)
        out["gap"] = {
            name: {
                metric: value - out["majority"]["models"][name][metric]
                for metric, value in metrics.items()
            }
            for name, metrics in out["minority"]["models"].items()
        }
    return out
