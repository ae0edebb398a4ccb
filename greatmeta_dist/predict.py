"""A trained run as one object that predicts: ``Predictor.load(run).score(tasks)``.

Everything it needs is in the run's folder. The store may be gone.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.config import Config
from greatmeta_dist.data.store import FeatureSpec, Store
from greatmeta_dist.data.tasks import Features, TaskTable
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.errors import require
from greatmeta_dist.evaluation.baselines import Baselines
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.ragged import Ragged
from greatmeta_dist.training.build import Model, build_model
from greatmeta_dist.training.run_config import saved_config
from greatmeta_dist.training.run_folder import CHECKPOINTS, require_same_store
from greatmeta_dist.training.saved_model import SavedModel

FOR_PREDICTIONS: checkpoint.Wanted = {"rows": None}
"""Predictions take embedding rows, and nothing that is kept about training users."""


@dataclass(frozen=True)
class Predictor:
    """A run's best parameters, with its priors and its blend weight."""

    run: Path
    step: int
    """The step whose parameters these are: the best one by validation users."""
    model: Model
    store_identity: str

    @classmethod
    def load(cls, run: str | Path, *, warn: Callable[[str], None] = warnings.warn) -> "Predictor":
        """Load a run; nobody is scored for it, and its store is not needed.

        ``warn`` is called with one line for each thing that is not as it should be, such as a
        damaged checkpoint. Raises ``InputError`` where the folder holds no run, a run of another
        version, or no checkpoint.
        """
        run = Path(run)
        config = saved_config(run)
        require(
            config is not None,
            f"{run} holds no run (no config.yaml); run: greatmeta train store=DIR run={run}",
        )
        assert config is not None
        saved = SavedModel.open(run)
        model = build_model(config, saved.catalogue(), saved.priors())
        parameters = _best_checkpoint(run, warn)
        model.worker.load(parameters.dense, parameters.tables)
        model = replace(model, scorer=_weighted(model.scorer, saved, parameters.step, run, warn))
        return cls(run, parameters.step, model, saved.store_identity)

    def score(self, tasks: TaskTable) -> NDArray[np.float64]:
        """Predicted rating of every query row (of clicks, the chance), users' rows end to end.

        The model is adapted to each user's support first.
        """
        return self.scorer.predict(tasks)["adapted"]

    def one_user(self, ratings: Mapping[str, float], items: Sequence[str]) -> TaskTable:
        """A new user's known ratings by item, and the items to predict, as tasks for ``score``.

        Items are named as in the log. The user's features are taken as unknown. Raises
        ``InputError`` for an item that is not in the catalogue, and for a rating that is not a
        finite number.
        """
        for item, rating in ratings.items():
            is_number = isinstance(rating, (int, float, np.number)) and np.isfinite(rating)
            require(bool(is_number), f"the rating of {item} is {rating}; expected a finite number")
        index = {token: k for k, token in enumerate(self.catalogue.item_tokens())}
        unknown = [item for item in (*ratings, *items) if item not in index]
        require(
            not unknown,
            f"{self.run} does not know item {unknown[0] if unknown else ''}; ask for items of its "
            "catalogue",
        )

        def one_list(values: Sequence[float], kind: type) -> Ragged:
            return Ragged(np.array(values, kind), np.array([0, len(values)]))

        fields = self.catalogue.fields("user", self.feature_spec)
        features = Features(
            tuple(one_list([f.unknown_row], np.int32) for f in fields),
            tuple(False for _ in fields),
            tuple(f.unknown_row for f in fields),
        )
        return TaskTable(
            features,
            one_list([index[item] for item in ratings], np.int32),
            one_list(list(ratings.values()), np.float32),
            one_list([index[item] for item in items], np.int32),
            one_list([0.0] * len(items), np.float32),
        )

    @property
    def scorer(self) -> Scorer:
        """Predicts as ``score`` does, and also unadapted, and without the blend."""
        return self.model.scorer

    @property
    def config(self) -> Config:
        return self.model.config

    @property
    def catalogue(self) -> Store:
        """The items and vocabularies the model was trained on."""
        return self.model.catalogue

    @property
    def feature_spec(self) -> FeatureSpec:
        """How tasks for this model are read from a store."""
        return self.scorer.feature_spec

    @property
    def blend_weight(self) -> float | None:
        """The share of a prediction that is the rating priors'; None where there are none."""
        return self.scorer.blend.weight if self.scorer.blend.priors else None

    def baselines(self) -> Baselines:
        """What people would use instead of the model, made of the run's own priors."""
        priors = self.model.priors
        return Baselines.of(self.scorer.collator.target_transform, priors["bayesian_mf"])

    def open_store(self, folder: str | Path | None = None) -> Store:
        """The store of the training, or ``folder``, checked to be the same data.

        Raises ``InputError`` where it is gone, damaged, or another one.
        """
        path = folder or self.config.store
        require(path is not None, f"{self.run}/config.yaml names no store; add store=DIR")
        assert path is not None
        store = Store(Path(path))
        require_same_store(self.store_identity, store, self.run)
        store.check()
        return store


def _weighted(
    scorer: Scorer, saved: SavedModel, step: int, run: Path, warn: Callable[[str], None]
) -> Scorer:
    """The scorer with the blend weight that was fitted for the parameters of a step."""
    weight = saved.blend_weight(step)
    if weight is not None:
        return scorer.with_blend_weight(weight)
    if scorer.blend.priors:
        warn(
            f"{run} was not trained to its end and has no blend weight for step {step}; taking "
            f"{scorer.blend.weight:g}. greatmeta train run={run} goes on"
        )
    return scorer


def _best_checkpoint(run: Path, warn: Callable[[str], None]) -> checkpoint.Checkpoint:
    """The best step's checkpoint, or the newest whole one if that is damaged or gone.

    Where a training goes on meanwhile and has a new best one, it deletes the one before.
    """
    folder = run / CHECKPOINTS
    newest, best = _newest_and_best(run, warn)
    while best is None and checkpoint.steps(folder)[-1:] != [newest.step]:
        previous = newest
        newest, best = _newest_and_best(run, warn)
        if newest.step == previous.step:
            break
    if best is None:
        warn(
            f"the best checkpoint, of step {newest.state['best']['step']}, is damaged or gone; "
            f"taking step {newest.step}"
        )
    return best or newest


def _newest_and_best(
    run: Path, warn: Callable[[str], None]
) -> tuple[checkpoint.Checkpoint, checkpoint.Checkpoint | None]:
    """The newest whole checkpoint, and that of the step which it calls best, if that is whole."""
    folder = run / CHECKPOINTS
    newest, skipped = checkpoint.load_latest(folder, wanted=FOR_PREDICTIONS)
    require(
        newest is not None or not skipped,
        f"{run} has {len(skipped)} checkpoints, and all are damaged or partial; restore "
        f"{folder} from a copy, or train anew with another run=DIR",
    )
    require(newest is not None, f"{run} has no checkpoint yet; run greatmeta train run={run}")
    assert newest is not None
    for step in skipped:
        warn(f"checkpoint of step {step} is damaged or partial; going further back")
    best = newest.state["best"]
    if not best or best["step"] == newest.step:
        return newest, newest
    return newest, checkpoint.load(folder, best["step"], wanted=FOR_PREDICTIONS)
