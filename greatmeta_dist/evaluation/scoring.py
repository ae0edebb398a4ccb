"""Predicted ratings of tasks, and the scores of a whole split."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.batching.collate import Collator, Layout
from greatmeta_dist.batching.grouping import UserGrouping
from greatmeta_dist.batching.read import read_split
from greatmeta_dist.data.store import FeatureSpec, Store, UserTasks
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.engine.worker import Worker
from greatmeta_dist.evaluation.blend import Blend, BlendSums, fit_blend_weight
from greatmeta_dist.evaluation.metrics.base import (
    PredictedRows,
    UserMetrics,
    join,
    measure_rows,
)
from greatmeta_dist.evaluation.metrics.lists import (
    ListSettings,
    UserLists,
    join_lists_of_users,
    lists_of_candidates,
)
from greatmeta_dist.evaluation.metrics.log_loss import log_loss_of_users
from greatmeta_dist.evaluation.metrics.ndcg import chance_of
from greatmeta_dist.meta.batch import TaskBatch

USERS_PER_BATCH = 256
MAX_VALID_USERS = 4096
"""Where there are more validation users, about so many decide the best step and blend weight."""
T = TypeVar("T")

Progress = Callable[[str, int], None]
"""Called with a split and the number of its users that are scored so far."""


def no_progress(split: str, num_scored: int) -> None:
    """Shows nothing."""


class Predicts(Protocol):
    """What predicts ratings beside the model, such as ``Baselines``."""

    def predict(self, tasks: TaskTable) -> dict[str, NDArray[np.float64]]:
        """By model: the predicted rating of every query row, users' rows end to end."""


@dataclass(frozen=True)
class Scorer:
    """The model with all that turns its predictions into ratings.

    In a group of workers all call it together, because each holds a block of the embedding rows.
    """

    worker: Worker
    collator: Collator
    feature_spec: FeatureSpec
    grouping: UserGrouping
    blend: Blend

    def predict(self, tasks: TaskTable) -> dict[str, NDArray[np.float64]]:
        """``unadapted`` and ``adapted`` ratings of every query row, users' rows end to end."""
        return self.blend.apply(tasks, self.predict_model(tasks))

    def predict_model(self, tasks: TaskTable) -> dict[str, NDArray[np.float64]]:
        """The same, by the model alone: not blended."""
        batch = self.collated(tasks)
        predictions = self.worker.predict(batch)
        assert predictions is not None
        is_row = batch.query.row_weight.numpy() > 0
        to_rating = self.collator.target_transform.to_rating(tasks)
        return {
            name: to_rating(prediction.cpu().numpy()[is_row])
            for name, prediction in zip(("unadapted", "adapted"), predictions, strict=True)
        }

    def collated(self, tasks: TaskTable) -> TaskBatch:
        """The batch of users to predict for."""
        support, query = tasks.support_item.lengths, tasks.query_item.lengths
        layout = Layout.by_length(support, query, self.worker.padding)
        return self.collator.collate(tasks, layout=layout)

    def alone(self) -> "Scorer":
        """The same scorer with nothing blended into the model's predictions."""
        return replace(self, blend=replace(self.blend, priors=()))

    def with_blend_weight(self, weight: float) -> "Scorer":
        """The same scorer with another blend weight."""
        return replace(self, blend=replace(self.blend, weight=weight))

    def fit_blend_weight(self, store: Store) -> float | None:
        """The blend weight that suits the validation users; None except on rank 0.

        All workers call it together. The same bits with any number of workers.
        """

        def sums(users: UserTasks) -> BlendSums:
            rating = users.tasks.query_label.values
            of_priors, known = self.blend.predict(users.tasks)
            is_known = known > 0
            of_model = self.predict_model(users.tasks)["adapted"]
            return BlendSums.of_rows(rating[is_known], of_model[is_known], of_priors[is_known])

        batches = _for_each_batch(self, store, "valid", sums, max_users=MAX_VALID_USERS)
        return None if batches is None else fit_blend_weight(batches)


@dataclass(frozen=True)
class Scored:
    """One split's users, scored by every model."""

    models: dict[str, UserMetrics]
    group: NDArray[np.int32]
    """[users] preference group, as records have it."""
    chance: NDArray[np.float64]
    """[users, cutoffs] expected nDCG of a random order; nan for users with nothing to rank."""
    log_loss: dict[str, NDArray[np.float64]]
    """Of clicks, by model: [users] the sum of each one's losses. Of ratings empty."""
    num_rows: NDArray[np.int64]
    """[users] query rows of each."""
    lists: dict[str, UserLists]
    """By model, what the query rows are worth as lists; empty unless asked for."""
    user: list[str]
    """[users] who they are."""


def score_split(
    scorer: Scorer,
    store: Store,
    split: str,
    *,
    max_users: int | None = None,
    others: Predicts | None = None,
    lists: ListSettings | None = None,
    limit_support: Callable[[TaskTable], TaskTable] = lambda tasks: tasks,
    progress: Progress = no_progress,
) -> Scored | None:
    """Predict and measure every query row of a split, also by ``others``, and with ``lists`` as
    lists.

    ``limit_support`` may shorten what is known of the users. Where the split has more than
    ``max_users`` users, about so many are taken. All workers call it together, and each takes its
    turn at the batches; rank 0 gets the result, others None.
    """
    lowest, is_click = store.manifest.ratings.lowest, store.manifest.is_click

    def score(users: UserTasks) -> Scored:
        tasks = limit_support(users.tasks)
        predictions = (dict(others.predict(tasks)) if others else {}) | scorer.predict(tasks)
        rating = tasks.query_label.values.astype(np.float64)
        lengths = tasks.query_label.lengths
        rows = {
            name: PredictedRows(rating, values, lengths, lowest, is_click)
            for name, values in predictions.items()
        }
        item = tasks.query_item.values
        return Scored(
            {name: measure_rows(predicted) for name, predicted in rows.items()},
            scorer.grouping.recorded(users),
            chance_of(PredictedRows(rating, rating, lengths, lowest, is_click)),
            {n: log_loss_of_users(r) for n, r in rows.items()} if is_click else {},
            lengths,
            {n: lists_of_candidates(r, item, lists) for n, r in rows.items()} if lists else {},
            users.user,
        )

    batches = _for_each_batch(scorer, store, split, score, max_users=max_users, progress=progress)
    if batches is None:
        return None
    return Scored(
        {name: join([b.models[name] for b in batches]) for name in batches[0].models},
        np.concatenate([b.group for b in batches]),
        np.concatenate([b.chance for b in batches]),
        {n: np.concatenate([b.log_loss[n] for b in batches]) for n in batches[0].log_loss},
        np.concatenate([b.num_rows for b in batches]),
        {n: join_lists_of_users([b.lists[n] for b in batches]) for n in batches[0].lists},
        [user for b in batches for user in b.user],
    )


def _for_each_batch(
    scorer: Scorer,
    store: Store,
    split: str,
    work: Callable[[UserTasks], T],
    *,
    max_users: int | None,
    progress: Progress = no_progress,
) -> Sequence[T] | None:
    """``work`` done on each batch of a split: the results in order on rank 0, None elsewhere.

    Workers take batches in turn, and send embedding rows to each other. So a worker without a
    batch of its own still takes part in the others' predictions.
    """
    communicator, num_scored = scorer.worker.communicator, 0
    results: list[T] = []
    for users in read_split(
        store,
        split,
        scorer.feature_spec,
        users_per_batch=USERS_PER_BATCH,
        max_users=max_users,
        rank=communicator.rank,
        world_size=communicator.size,
    ):
        if users is None:
            scorer.worker.predict(None)
            continue
        results.append(work(users))
        num_scored += len(users)
        progress(split, num_scored)
    by_worker: list[Any] | None = communicator.gather_objects(results)
    if by_worker is None:
        return None
    rounds = itertools.zip_longest(*by_worker)
    return [result for turn in rounds for result in turn if result is not None]
