"""How high positive items rank in the whole catalogue: clicks, or high ratings.

Shapes: U users of a batch; I items of the catalogue.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.batching.read import read_split
from greatmeta_dist.data.store import Store, UserTasks
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.evaluation.metrics.lists import (
    ListSettings,
    UserLists,
    join_lists_of_users,
    lists_of_catalogue,
)
from greatmeta_dist.evaluation.metrics.ranking import ranking
from greatmeta_dist.evaluation.scoring import Predicts, Progress, Scorer, no_progress

USERS_PER_BATCH, ITEMS_PER_BATCH = 32, 4096
"""Scored at a time, which bounds memory."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RankedUsers:
    """How high users' positive items stand in the whole catalogue."""

    models: dict[str, dict[str, Floats]]
    """Of clicks: ``hr@k`` and ``ndcg@k`` [users] by model; nan for a user with nothing to rank."""
    lists: dict[str, UserLists]
    """By model, the catalogue as users' lists; empty unless asked for."""
    group: NDArray[np.int32]
    """[users] preference group, as records have it."""
    user: list[str]
    """[users] who they are."""

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


def rank_in_catalogue(
    scorer: Scorer,
    store: Store,
    split: str,
    *,
    others: Predicts,
    lists: ListSettings | None = None,
    max_users: int | None = None,
    progress: Progress = no_progress,
) -> RankedUsers:
    """Positive query items of a split's users, ranked among all items that their user does not
    know.

    A user knows the items of the support set, but not those drawn because the log has no click.
    Where the split has more than ``max_users`` users, about so many are taken.
    """
    batches: list[RankedUsers] = []
    num_ranked = 0
    for users in read_split(
        store, split, scorer.feature_spec, users_per_batch=USERS_PER_BATCH, max_users=max_users
    ):
        assert users is not None
        batches.append(_rank_users(scorer, store, users, others, lists))
        num_ranked += len(users)
        progress(split, num_ranked)
    first = batches[0]
    return RankedUsers(
        {
            model: {m: np.concatenate([b.models[model][m] for b in batches]) for m in metrics}
            for model, metrics in first.models.items()
        },
        {n: join_lists_of_users([b.lists[n] for b in batches]) for n in first.lists},
        np.concatenate([b.group for b in batches]),
        [user for b in batches for user in b.user],
    )


def _mean_of_known(by_user: Floats) -> float:
    known = by_user[~np.isnan(by_user)]
    return float(known.mean()) if len(known) else float("nan")


def _rank_users(
    scorer: Scorer, store: Store, users: UserTasks, others: Predicts, lists: ListSettings | None
) -> RankedUsers:
    tasks, num_items = users.tasks, store.manifest.num_items
    lowest = lists.positive_at if lists is not None and not store.manifest.is_click else 1.0
    # An item that the model does not know stands in no catalogue.
    is_positive = (tasks.query_label.values >= lowest) & (tasks.query_item.values < num_items)
    user = np.repeat(np.arange(len(users)), tasks.query_item.lengths)[is_positive]
    is_known = np.zeros((len(users), num_items), bool)
    owner = np.repeat(np.arange(len(users)), tasks.support_item.lengths)
    # In a log of clicks alone, rows of label 0 were drawn: the user did not meet these items.
    is_met = tasks.support_item.values < num_items
    if store.manifest.is_implicit:
        is_met &= tasks.support_label.values > 0
    is_known[owner[is_met], tasks.support_item.values[is_met]] = True
    positive = tasks.query_item.values[is_positive]
    models, as_lists = {}, {}
    for model, score in _score_every_item(scorer, tasks, num_items, others).items():
        if store.manifest.is_click:
            models[model] = ranking(score, is_known, user, positive)
        if lists is not None:
            as_lists[model] = lists_of_catalogue(score, is_known, user, positive, lists)
    return RankedUsers(models, as_lists, scorer.grouping.recorded(users), users.user)


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
