"""One run of the benchmark: train a model, or take the others, and score the new users."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.environment import commit
from benchmarks.quality.data_sets import DataSet
from benchmarks.quality.models import NoOtherModels, OtherModels
from benchmarks.untrained import untrained_model
from greatmeta_dist.batching.resample import shorten
from greatmeta_dist.data.store import Store
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.display import Silent
from greatmeta_dist.evaluation.evaluate import evaluate
from greatmeta_dist.evaluation.scoring import Predicts, Scored, Scorer, score_split
from greatmeta_dist.evaluation.worst_users import worst_summary
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.predict import Predictor
from greatmeta_dist.training.loop import train

SUPPORTS: dict[str, int | None] = {"full": None, "10": 10, "5": 5}
DRAWS = 4
"""Random supports of 10 and 5 rows besides the first ones; ``10 drawn`` is the mean over all."""

LimitSupport = Callable[[TaskTable], TaskTable]


def run_trained(
    data: DataSet, options: list[str], seed: int, threads: int, scratch: Path
) -> dict[str, Any]:
    """Train once, and score the best checkpoint, adapted and unadapted.

    Where predictions are blended with priors, ``blend_weight`` is given, and the same scores of
    the model ``alone``. The training stands in a folder of ``scratch`` until it is scored. Where an
    earlier call was stopped, this one goes on from its last checkpoint, and ``seconds`` is None.
    """
    run = scratch / _run_name(data, options, seed)
    is_resumed = run.exists()
    run.parent.mkdir(parents=True, exist_ok=True)
    words = [f"store={data.store}", f"train.seed={seed}", f"cluster.threads={threads}", *options]
    start = time.monotonic()
    train(compose_config(words), run, Silent())
    seconds = None if is_resumed else time.monotonic() - start
    predictor = Predictor.load(run)
    store, scorer = predictor.open_store(), predictor.scorer
    result = {"seconds": seconds, "step": predictor.step, **_scores(scorer, store)}
    if predictor.blend_weight is not None:
        result["alone"] = _scores(scorer.alone(), store)
        result["blend_weight"] = predictor.blend_weight
    shutil.rmtree(run)
    return result


def _run_name(data: DataSet, options: list[str], seed: int) -> str:
    """The name of a training's folder: another store, other options or other code, another name."""
    made_of = [Store(data.store).identity, commit(), options, seed]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]


def run_others(data: DataSet, threads: int) -> dict[str, Any]:
    """Score everything that needs no training."""
    torch.set_num_threads(threads)
    config = compose_config([f"store={data.store}", *data.options])
    store = Store(data.store)
    start = time.monotonic()
    model = untrained_model(config, store)
    others = OtherModels(store, model)
    seconds = time.monotonic() - start
    return {"seconds": seconds, **_scores(model.scorer, store, others)}


def _scores(scorer: Scorer, store: Store, others: Predicts | None = None) -> dict[str, Any]:
    others = others or NoOtherModels()
    return {
        "scores": _user_cold_scores(scorer, store, others),
        "scenarios": _scenario_scores(scorer, store, others),
    }


def _user_cold_scores(scorer: Scorer, store: Store, others: Predicts) -> dict[str, Any]:
    """``{model: {support: {who: metrics}}}`` of the user-cold users, ``who`` as in ``_summary``."""
    by_model: dict[str, Any] = {}
    for support, length in SUPPORTS.items():
        draws = [_score_user_cold(scorer, store, others, limit) for limit in _limits(length)]
        for model in draws[0].models:
            summaries = [_summary(scored, model, scorer.grouping.minority) for scored in draws]
            scores = by_model.setdefault(model, {})
            scores[support] = summaries[0]
            if length is not None:
                scores[f"{support} drawn"] = _mean_summary(summaries)
    return by_model


def _limits(length: int | None) -> Iterator[LimitSupport]:
    """The supports that users are judged with: whole; or the first rows, then random ones."""
    if length is None:
        yield lambda tasks: tasks
        return
    yield lambda tasks: shorten(tasks, length)
    for draw in range(DRAWS):
        yield lambda tasks, draw=draw: shorten(tasks, length, np.random.default_rng([draw, 7]))  # type: ignore[misc]


def _score_user_cold(
    scorer: Scorer, store: Store, others: Predicts, limit_support: LimitSupport
) -> Scored:
    scored = score_split(scorer, store, "user_cold", others=others, limit_support=limit_support)
    assert scored is not None
    return scored


def _summary(scored: Scored, model: str, minority: list[int]) -> dict[str, dict[str, float]]:
    """A model's metrics over all users, over minority users (nan where there are none), and over
    the tenth of users for whom each metric is worst."""
    metrics, is_minority = scored.models[model], np.isin(scored.group, minority)
    of_minority = metrics.summary(is_minority)
    if not is_minority.any():
        of_minority = dict.fromkeys(of_minority, float("nan"))
    return {
        "all": metrics.summary(),
        "minority": of_minority,
        "worst_tenth": worst_summary(metrics),
    }


def _mean_summary(summaries: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        who: {name: float(np.mean([s[who][name] for s in summaries])) for name in metrics}
        for who, metrics in summaries[0].items()
    }


def _scenario_scores(scorer: Scorer, store: Store, others: Predicts) -> dict[str, Any]:
    """``{scenario: {kind: metrics by model}}`` where there is more than user-cold ratings.

    ``kind`` is ``models``, ``worst_tenth``, or, of clicks, ``catalogue``.
    """
    if not store.manifest.is_click and "item_cold" not in store.manifest.splits:
        return {}
    evaluation = evaluate(scorer, store, others=others)
    return {
        name: {
            "models": scenario["models"],
            "worst_tenth": scenario["worst_tenth"]["models"],
            **({"catalogue": scenario["catalogue"]} if "catalogue" in scenario else {}),
        }
        for name, scenario in evaluation["scenarios"].items()
    }
