"""How high clicked items rank in the whole catalogue.

Shapes: U users of a batch; I items of the catalogue.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.batching.read import read_split
from greatmeta_dist.data.store import Store, UserTasks
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.evaluation.metrics.ranking import ranking
from greatmeta_dist.evaluation.scoring import Predicts, Scorer

USERS_PER_BATCH, ITEMS_PER_BATCH = 32, 4096
"""Scored at a time, which bounds memory."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RankedUsers:
    """How high users' clicked items stand in the whole catalogue."""

    models: dict[str, dict[str, Floats]]
    """``hr@k`` and ``ndcg@k`` [users] by model; nan for a user with nothing to rank."""

    def summary(self) -> dict[str, dict[str, float]]:
        """``{model: {hr@k, ndcg@k}}``: means over users; nan where no user has anything to rank."""
        return {
            model: {metric: _mean_of_known(by_user) for metric, by_user in metrics.items()}
            for model, metrics in self.models.items()
        }

    def num_counted(self) -> int:
        """How many users have something to rank: as many for every model and number."""
        by_user = next(iter(next(iter(self.models.values())).values()))
        return int((~np.isnan(by_user)).sum())


def rank_in_catalogue(scorer: Scorer, store: Store, split: str, *, others: Predicts) -> RankedUsers:
    """Clicked query items of a split's users, ranked among all items that their user does not know.

    A user knows the items of the support set, but not those drawn because the log has no click.
    """
    by_model: dict[str, dict[str, list[Floats]]] = {}
    for users in read_split(store, split, scorer.feature_spec, users_per_batch=USERS_PER_BATCH):
        assert users is not None
        for model, metrics in _rank_users(scorer, store, users, others).items():
            for metric, by_user in metrics.items():
                by_model.setdefault(model, {}).setdefault(metric, []).append(by_user)
    return RankedUsers(
        {
            model: {metric: np.concatenate(batches) for metric, batches in metrics.items()}
            for model, metrics in by_model.items()
        }
    )


def _mean_of_known(by_user: Floats) -> float:
    known = by_user[~np.isnan(by_user)]
    return float(known.mean()) if len(known) else float("nan")


def _rank_users(
    scorer: Scorer, store: Store, users: UserTasks, others: Predicts
) -> dict[str, dict[str, Floats]]:
    """Metrics [U] by model."""
    tasks, num_items = users.tasks, store.manifest.num_items
    is_click = tasks.query_label.values > 0
    user = np.repeat(np.arange(len(users)), tasks.query_item.lengths)[is_click]
    is_known = np.zeros((len(users), num_items), bool)
    owner = np.repeat(np.arange(len(users)), tasks.support_item.lengths)
    # In a log of clicks alone, rows of label 0 were drawn: the user did not meet these items.
    is_met = tasks.support_label.values > 0 if store.manifest.is_implicit else slice(None)
    is_known[owner[is_met], tasks.support_item.values[is_met]] = True
    clicked = tasks.query_item.values[is_click]
    return {
        model: ranking(score, is_known, user, clicked)
        for model, score in _score_every_item(scorer, tasks, num_items, others).items()
    }


def _score_every_item(
    scorer: Scorer, tasks: TaskTable, num_items: int, others: Predicts
) -> dict[str, Floats]:
    """Scores [U, I] by model, made for a slice of the catalogue at a time."""
    slices: dict[str, list[Floats]] = {}
    for first in range(0, num_items, ITEMS_PER_BATCH):
        items = np.arange(first, min(num_items, first + ITEMS_PER_BATCH))
        of_slice = tasks.asking(np.tile(items, (len(tasks), 1)))
        for model, values in (others.predict(of_slice) | scorer.predict(of_slice)).items():
            slices.setdefault(model, []).append(values.reshape(len(tasks), len(items)))
    return {model: np.concatenate(scores, 1) for model, scores in slices.items()}
