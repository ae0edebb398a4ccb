"""How good a model is: every scenario × {baselines, unadapted, adapted} × metrics, by group."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.batching.collate import Collator
from greatmeta_dist.batching.lanes import read_part
from greatmeta_dist.batching.target_transform import DEFAULT_BLEND_WEIGHT
from greatmeta_dist.data.split import SCENARIOS
from greatmeta_dist.data.store import FeatureSpec, Store
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.engine.worker import Worker
from greatmeta_dist.evaluation.baselines import Baselines
from greatmeta_dist.evaluation.metrics import (
    CUTOFFS,
    UserMetrics,
    chance_ndcg,
    join,
    measure,
    ranking,
)
from greatmeta_dist.meta.batch import TaskBatch
from greatmeta_dist.ragged import Ragged

USERS_PER_BATCH = 256
MAX_VALID_USERS = 4096
"""Of more validation users about so many decide which checkpoint is best, and what share of its
predictions is the factorisations'."""
BLEND_WEIGHT_DEVIATION = 0.25
"""Standard deviation of that share about a half, a priori."""
CATALOGUE_USERS, CATALOGUE_ITEMS = 32, 4096
"""Scored at a time where the whole catalogue is."""


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
    collator: Collator,
    choice: FeatureSpec,
    part: str,
    *,
    most: int | None = None,
    baselines: Predictor | None = None,
    given: Callable[[TaskTable], TaskTable] = lambda tasks: tasks,
    progress: Progress = lambda part, done, users: None,
) -> Scored | None:
    """Predict every query row of a part, users in batches; ``given`` may cut what is known.

    Of a part of more than ``most`` users about so many are taken. All workers call it together and
    share the batches; rank 0 has the result, others None.
    """
    lowest = store.manifest.ratings.lowest
    communicator, done = worker.communicator, 0
    found: list[Scored] = []
    for users in read_part(
        store,
        part,
        choice,
        users_per_batch=USERS_PER_BATCH,
        most=most,
        rank=communicator.rank,
        size=communicator.size,
    ):
        if users is None:
            worker.predict(None)
            continue
        tasks = given(users.tasks)
        batch = collator.collate(tasks)
        mask = batch.query.row_weight.numpy() > 0
        predictions = dict(baselines.predict(tasks)) if baselines else {}
        to_rating = collator.target_transform.to_rating(tasks)
        for name, found_rows in predicted(worker, batch).items():
            predictions[name] = to_rating(found_rows[mask])
        rating = tasks.query_label.values.astype(np.float64)
        lengths = tasks.query_label.lengths
        models = {
            name: measure(rating, values, lengths, lowest=lowest, is_click=store.manifest.is_click)
            for name, values in predictions.items()
        }
        found.append(Scored(models, users.group, chance_ndcg(rating - min(0.0, lowest), lengths)))
        done += len(users)
        progress(part, done, store.manifest.parts[part])
    by_worker = communicator.gather_objects(found)
    if by_worker is None:
        return None
    # Batches went round the workers in turn.
    rounds = itertools.zip_longest(*by_worker)
    batches = [scored for turn in rounds for scored in turn if scored is not None]
    return Scored(
        {name: join([b.models[name] for b in batches]) for name in batches[0].models},
        np.concatenate([b.group for b in batches]),
        np.concatenate([b.chance for b in batches]),
    )


def fit_blend_weight(
    worker: Worker,
    store: Store,
    collator: Collator,
    choice: FeatureSpec,
    progress: Progress = lambda part, done, users: None,
) -> float:
    """The factorisations' share that the validation users' ratings are most likely with, in [0, 1].

    Errors are taken for normal, of the model's variance, and the share, a priori, too: few ratings
    hardly move it. Called by one worker that has no others.
    """
    gain, size, error, count, done = 0.0, 0.0, 0.0, 0, 0
    for users in read_part(
        store, "valid", choice, users_per_batch=USERS_PER_BATCH, most=MAX_VALID_USERS
    ):
        assert users is not None
        batch, rating = collator.collate(users.tasks), users.tasks.query_label.values
        of_factors, is_known = collator.target_transform.factorised(users.tasks)
        rows = predicted(worker, batch)["adapted"][batch.query.row_weight.numpy() > 0]
        of_model = collator.target_transform.of_model(users.tasks)(rows)
        apart, left = (of_factors - of_model)[is_known], (rating - of_model)[is_known]
        gain, size = gain + float(apart @ left), size + float(apart @ apart)
        error, count = error + float(left @ left), count + len(left)
        done += len(users)
        progress("valid", done, store.manifest.parts["valid"])
    if not size or not np.isfinite(size):
        return DEFAULT_BLEND_WEIGHT
    prior = error / count / BLEND_WEIGHT_DEVIATION**2
    return min(1.0, max(0.0, (gain + DEFAULT_BLEND_WEIGHT * prior) / (size + prior)))


def predicted(worker: Worker, batch: TaskBatch) -> dict[str, NDArray[np.float32]]:
    """Every query row's prediction [B, n] in the model's units, unadapted and adapted."""
    found = worker.predict(batch)
    assert found is not None
    return {k: v.cpu().numpy() for k, v in zip(("unadapted", "adapted"), found, strict=True)}


def evaluate(
    worker: Worker,
    store: Store,
    collator: Collator,
    choice: FeatureSpec,
    progress: Progress = lambda part, done, users: None,
    others: Predictor | None = None,
) -> dict[str, Any]:
    """``{"scenarios": {name: {"users", "models", "chance", "groups"}}}``, in the ratings' units.

    Of clicks, ``catalogue`` besides. ``others`` are scored in place of the mean baselines.
    """
    baselines = others or Baselines.of(store)
    scenarios = {}
    for part in SCENARIOS:
        if store.manifest.parts.get(part):
            scored = score_part(
                worker, store, collator, choice, part, baselines=baselines, progress=progress
            )
            assert scored is not None
            scenarios[part] = _scenario(scored, store)
            if store.manifest.is_click:
                scenarios[part]["catalogue"] = catalogue_summary(
                    worker, store, collator, choice, part, baselines=baselines
                )
    return {"scenarios": scenarios, "notes": store.manifest.notes}


def catalogue_summary(
    worker: Worker,
    store: Store,
    collator: Collator,
    choice: FeatureSpec,
    part: str,
    *,
    baselines: Predictor,
) -> dict[str, dict[str, float]]:
    """``{model: {hr@k, ndcg@k}}``: clicked query items among all that the user does not know.

    Items drawn as not met are not known.
    """
    num_items = store.manifest.num_items
    found: dict[str, dict[str, list[NDArray[np.float64]]]] = {}
    for users in read_part(store, part, choice, users_per_batch=CATALOGUE_USERS):
        assert users is not None
        tasks, num_users = users.tasks, len(users)
        clicked = tasks.query_label.values > 0
        user = np.repeat(np.arange(num_users), tasks.query_item.lengths)[clicked]
        is_known = np.zeros((num_users, num_items), bool)
        owner = np.repeat(np.arange(num_users), tasks.support_item.lengths)
        met = tasks.support_label.values > 0 if store.manifest.is_implicit else slice(None)
        is_known[owner[met], tasks.support_item.values[met]] = True
        scores: dict[str, list[NDArray[np.float64]]] = {}
        for first in range(0, num_items, CATALOGUE_ITEMS):
            items = np.arange(first, min(num_items, first + CATALOGUE_ITEMS))
            asked = _about(tasks, items)
            batch = collator.collate(asked)
            predictions = dict(baselines.predict(asked))
            to_rating = collator.target_transform.to_rating(asked)
            for name, rows in predicted(worker, batch).items():
                predictions[name] = to_rating(rows.ravel())
            for name, values in predictions.items():
                scores.setdefault(name, []).append(values.reshape(num_users, len(items)))
        for name, parts in scores.items():
            ranked = ranking(
                np.concatenate(parts, 1), is_known, user, tasks.query_item.values[clicked]
            )
            for metric, by_user in ranked.items():
                found.setdefault(name, {}).setdefault(metric, []).append(by_user)
    return {
        name: {metric: float(np.nanmean(np.concatenate(v))) for metric, v in metrics.items()}
        for name, metrics in found.items()
    }


def _about(tasks: TaskTable, items: NDArray[np.int64]) -> TaskTable:
    """The same users, asked about each of the items."""
    offsets = np.arange(len(tasks) + 1) * len(items)
    return replace(
        tasks,
        query_item=Ragged(np.tile(items, len(tasks)), offsets),
        query_label=Ragged(np.zeros(offsets[-1], np.float32), offsets),
    )


def _scenario(scored: Scored, store: Store) -> dict[str, Any]:
    chance = np.nanmean(scored.chance, axis=0)
    return {
        "users": len(scored.group),
        "models": {name: metrics.summary() for name, metrics in scored.models.items()},
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
                if metric in out["majority"]["models"][name]
            }
            for name, metrics in out["minority"]["models"].items()
        }
    return out
