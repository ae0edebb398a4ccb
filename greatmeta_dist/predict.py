"""A trained run as one object that predicts: ``Predictor.load(run).recommend({item: rating})``.

Everything it needs is in the run's folder. The store may be gone.
"""

import json
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.config import Config
from greatmeta_dist.data.known_ratings import known_ratings
from greatmeta_dist.data.store import FeatureSpec, Store
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.errors import require
from greatmeta_dist.evaluation.baselines import Baselines
from greatmeta_dist.evaluation.rated_new_items import RatedNewItems, Tables
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.recommend.evidence_unit import read_evidence
from greatmeta_dist.recommend.explanation import Explanation
from greatmeta_dist.recommend.extended import Extension, evidence_model
from greatmeta_dist.recommend.known_supports import know_supports
from greatmeta_dist.recommend.loaded_model import keep, made_once
from greatmeta_dist.recommend.new_item_evidence import NewItemEvidence, added_items
from greatmeta_dist.recommend.new_items import FeaturesByItem
from greatmeta_dist.recommend.new_users import NewUsers
from greatmeta_dist.recommend.ranker import Ranker
from greatmeta_dist.storage.local_copy import address, local_folder
from greatmeta_dist.training.build import Model, build_model
from greatmeta_dist.training.run_config import saved_config
from greatmeta_dist.training.run_copy import folder_to_read
from greatmeta_dist.training.run_folder import SWEEP, require_same_store
from greatmeta_dist.training.saved_model import SavedModel

FOR_PREDICTIONS: checkpoint.Wanted = {"rows": None}
"""Predictions take embedding rows, and nothing that is kept about training users."""
_FIRST_LOOK = threading.Lock()


@dataclass(frozen=True)
class Predictor:
    """A run's best parameters, with its priors and its blend weight."""

    run: Path
    step: int
    """The step whose parameters these are: the best one by validation users."""
    model: Model
    store_identity: str
    base: Model | None = None
    """The model as it was trained, where ``model`` knows new items."""
    added: FeaturesByItem = field(default_factory=dict)
    """Items that came after the training, with their features; behind those of the catalogue."""
    evidence: NewItemEvidence | None = None
    """What ratings say of new items."""

    @classmethod
    def load(cls, run: str | Path, *, warn: Callable[[str], None] = warnings.warn) -> "Predictor":
        """Load a run; nobody is scored for it, and its store is not needed.

        ``warn`` is called with one line for each thing that is not as it should be, such as a
        damaged checkpoint. Raises ``InputError`` where the folder holds no run, a run of another
        version, or no checkpoint.
        """
        run = folder_to_read(run)
        require(
            not (run / SWEEP).exists(),
            f"{run} is the folder of a sweep; name one of its runs, of which {run}/summary.csv "
            "marks the best",
        )
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

    def recommend(
        self,
        interactions: Any = None,
        k: int = 10,
        *,
        user_features: Any = None,
        exclude_seen: bool = True,
        candidates: Iterable[Any] | None = None,
        explain: int = 0,
    ) -> Any:
        """The k best items of the catalogue for a user, or for many, the best first.

        ``interactions`` are what is known of one user: ``{item: rating}``, pairs ``(item,
        rating)``, or items alone where the run predicts clicks; nothing at all gives the ranking of
        a user of whom nothing is known. Of many users: ``{user: any of these}``, or a frame (Arrow,
        Polars, pandas) with columns of users, items and ratings under usual names. Ids are as in
        the log.

        ``user_features`` are ``{feature: value}``; of many users ``{user: {feature: value}}``, or a
        frame with a column of users and one for each feature. Items that the user knows are left
        out with ``exclude_seen``. ``candidates`` are the only items that may be recommended. Fewer
        items than k give fewer rows. With ``explain`` each has the so many things in words,
        ``why``, that moved its score most.

        Returns ``Recommendation`` tuples ``(item, score)`` for one user, a dictionary of such lists
        for many, and a frame of ``user``, ``rank``, ``item``, ``score`` for a frame. A score is a
        predicted rating, or the chance of a click. Items and features that training did not have
        count as unknown, with a warning. Raises ``InputError`` where an argument is not understood.
        """
        return self.ranker.recommend(
            interactions,
            k,
            user_features=user_features,
            exclude_seen=exclude_seen,
            candidates=candidates,
            explain=explain,
        )

    def explain(self, interactions: Any, item: Any, *, user_features: Any = None) -> Explanation:
        """What moved an item's score for one user from that of a user of whom nothing is known.

        The arguments are as in ``recommend``. The amounts of all known ratings and features add up
        to the difference. ``Explanation.text`` says it in words. Raises ``InputError``.
        """
        return self.ranker.explain(interactions, item, user_features=user_features)

    def score(
        self, interactions: Any, items: Iterable[Any], *, user_features: Any = None
    ) -> NDArray[np.float64]:
        """What users will give ``items``: [items] for one user, [users, items] for many.

        ``interactions`` and ``user_features`` are as in ``recommend``. An item that is not in the
        catalogue is scored as one of which nothing is known, with a warning.
        """
        return self.ranker.score(interactions, items, user_features=user_features)

    def with_items(self, items: Any = None, interactions: Any = None) -> "Predictor":
        """A predictor that also knows new items, and what anybody's ratings say of them.

        ``items`` are ``{item: {feature: value}}``, a frame with a column of items and columns of
        features, or ids alone; None stands for those that ``interactions`` name and the catalogue
        lacks. They become items like all others: candidates of ``recommend`` and known to
        ``score``. ``interactions`` are known ratings of anybody, in the forms of ``recommend``.
        Ratings of items that training did not have move what is predicted of these items, for
        everybody; without any an item is predicted from its features. What is known of an item by
        this predictor stays, and the ratings add to it. Raises ``InputError``.
        """
        evidence = self.new_item_evidence()
        if interactions is not None:
            evidence = evidence.add(known_ratings(interactions))
        return self.with_item_evidence(evidence, items)

    def new_item_evidence(self) -> NewItemEvidence:
        """No ratings of new items yet; ``add`` to it batch by batch, for a log of any size."""
        base = self.base or self.model
        model = evidence_model(base.scorer, base.priors)
        return NewItemEvidence.none(model, NewUsers(self.catalogue, self.feature_spec))

    def with_item_evidence(self, evidence: NewItemEvidence, items: Any = None) -> "Predictor":
        """As ``with_items``, of ratings that were added to a ``new_item_evidence``."""
        base = self.base or self.model
        total = evidence if self.evidence is None else self.evidence + evidence
        added = {**self.added, **added_items(items, total, self.added)}
        extension = Extension(base.scorer, base.priors, base.catalogue)
        scorer, priors = extension.extended(added, total.sums, unclicked=total.unclicked)
        model = replace(base, scorer=scorer, priors=priors)
        return replace(self, model=model, base=base, added=added, evidence=total)

    def score_tasks(self, tasks: TaskTable) -> NDArray[np.float64]:
        """Predicted rating of every query row (of clicks, the chance), users' rows end to end.

        The model is adapted to each user's support first.
        """
        return self.scorer.predict(tasks)["adapted"]

    @property
    def ranker(self) -> Ranker:
        """What recommends and scores. Made when it is first needed: it looks at every item."""
        if "_ranker" not in self.__dict__:
            with _FIRST_LOOK:  # of threads that come together, one looks
                _ = self._ranker
        return self._ranker

    @cached_property
    def _ranker(self) -> Ranker:
        return Ranker.of(self.scorer, self.catalogue, self.feature_spec, added=tuple(self.added))

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

    def know_supports(self, tables: Tables) -> RatedNewItems | None:
        """Learn new items from users' supports, as ``evaluate`` asks for; the run's model stays."""
        base = self.base or self.model
        return know_supports(base.scorer, base.priors, base.catalogue, tables)

    def open_store(self, folder: str | Path | None = None) -> Store:
        """The store of the training, or ``folder``, checked to be the same data.

        Raises ``InputError`` where it is gone, damaged, or another one.
        """
        path = folder or self.config.store
        require(path is not None, f"{self.run}/config.yaml names no store; add store=DIR")
        assert path is not None
        store = Store(local_folder(path))
        require_same_store(self.store_identity, store, self.run)
        store.check()
        return store


@dataclass(frozen=True)
class RunModel:
    """Loads a run's model in whatever process needs it (``recommend/loaded_model``)."""

    run: str
    step: int
    blend_weight: float | None
    evidence: str | None = None
    """Files of new items, as ``with_new_items`` has them."""
    items: str | None = None

    @classmethod
    def of(cls, predictor: Predictor) -> "RunModel":
        """Of a predictor that this process has loaded, and need not load again."""
        model = cls(address(predictor.run), predictor.step, predictor.blend_weight)
        keep(model, predictor)
        return model

    def with_new_items(self, evidence: str, items: str) -> "RunModel":
        """With ratings in a file of ``write_evidence``, of ``items`` in a file of JSON."""
        return replace(self, evidence=evidence, items=items)

    def ranker(self) -> Ranker:
        """Raises ``InputError`` where the run has other parameters meanwhile."""
        return self._predictor().ranker

    def new_item_evidence(self) -> NewItemEvidence:
        return self._predictor().new_item_evidence()

    def _predictor(self) -> Predictor:
        return made_once(self, self._load)

    def _load(self) -> Predictor:
        if self.evidence is not None and self.items is not None:
            base = replace(self, evidence=None, items=None)._predictor()
            evidence = read_evidence(Path(self.evidence), base.new_item_evidence())
            return base.with_item_evidence(evidence, json.loads(Path(self.items).read_text()))
        predictor = Predictor.load(self.run, warn=lambda text: None)
        require(
            (predictor.step, predictor.blend_weight) == (self.step, self.blend_weight),
            f"{self.run} was trained on meanwhile: its best step was {self.step}, and is "
            f"{predictor.step} now; run the same command again",
        )
        return predictor


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
    folder = run / checkpoint.FOLDER
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
    folder = run / checkpoint.FOLDER
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
