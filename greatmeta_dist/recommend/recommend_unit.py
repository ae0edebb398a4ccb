"""The best items of some users of a bucket, as one unit of work of a batch recommendation.

Each process loads the model once, whatever number of units it runs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from greatmeta_dist.data.manifest import Field
from greatmeta_dist.data.recommendations import (
    RecommendationWriter,
    recommendation_rows,
)
from greatmeta_dist.data.store import FeatureSpec
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.data.units import Result
from greatmeta_dist.data.user_tasks import AskedTasks, read_asked
from greatmeta_dist.files import written_atomically
from greatmeta_dist.ragged import Ints, join_lists
from greatmeta_dist.recommend.catalogue_scorer import (
    CANDIDATES_PER_ITEM,
    MIN_CANDIDATES,
    CatalogueScorer,
    TopItems,
)
from greatmeta_dist.recommend.explain import ExplainedUser
from greatmeta_dist.recommend.loaded_model import LoadsModel, made_once
from greatmeta_dist.recommend.ranker import USERS_PER_BATCH

RECOMMEND = "recommend"
WHY = pa.field("why", pa.list_(pa.string()))
"""The column of reasons."""
EXACT_SCORES = 1 << 20
"""Items of all users of a batch that are scored exactly at a time, about."""


@dataclass(frozen=True)
class Opened:
    """A model with what its recommendations take from the items: made once in a process."""

    of_catalogue: CatalogueScorer
    """Of the candidates alone, where there are some."""
    item: pa.Array
    """[I] ids of the catalogue, as they are written."""
    fields: list[Field]
    """The users' features that the model reads."""
    spec: FeatureSpec
    explain: Callable[[TaskTable], ExplainedUser]
    """What the scores of one user are explained with."""


@dataclass(frozen=True)
class RecommendUnit:
    """Writes users' best items; a unit is ``[bucket, first user, number of users]``.

    The result counts ``rows``, and users without any (``no_items``).
    """

    load: LoadsModel
    tasks: str
    """Where the tasks of buckets are, with ``{}`` for the number of the bucket."""
    schema: pa.Schema
    k: int
    exclude_seen: bool
    candidates: tuple[int, ...] | None
    """Indices into the catalogue; None for all items."""
    folder: Path
    explain: int = 0
    """Reasons for each item, in words; with 0 there is no such column."""

    def path(self, number: int) -> Path:
        """What a unit writes."""
        return self.folder / f"piece-{number}.parquet"

    def __call__(self, number: int, unit: Any) -> Result:
        bucket, first, num_users = unit
        opened = self.opened()
        path = Path(self.tasks.format(bucket))
        asked = read_asked(path, first, num_users, opened.fields, opened.spec)
        no_items = 0
        with (
            written_atomically(self.path(number)) as partial,
            RecommendationWriter(partial, self.schema) as writer,
        ):
            for users in self._batches(num_users, len(opened.item)):
                tasks, top = self._best(opened, asked, users)
                no_items += sum(not len(one.item) for one in top)
                columns = {"user": asked.user.take(pa.array(users))}
                columns |= self._columns(opened, tasks, top)
                lengths = np.array([len(one.item) for one in top], np.int64)
                writer.write(recommendation_rows(self.schema, columns, lengths))
        return {"rows": writer.num_rows, "no_items": no_items}

    def opened(self) -> Opened:
        """The model, loaded when a process needs it for the first time."""
        key = (self.load, self.candidates, str(self.schema.field("item").type))
        return made_once(key, self._open)

    def _open(self) -> Opened:
        ranker = self.load.ranker()
        of_catalogue, new_users = ranker.of_catalogue, ranker.new_users
        if self.candidates is not None:
            of_catalogue = of_catalogue.restricted(np.array(self.candidates, np.int64))
        item = pa.array(new_users.items, pa.string()).cast(self.schema.field("item").type)
        fields = new_users.catalogue.fields("user", new_users.feature_spec)
        return Opened(
            of_catalogue,
            item,
            fields,
            new_users.feature_spec,
            lambda task: ranker.explainer.of_user(task),
        )

    def _batches(self, num_users: int, num_items: int) -> Iterator[Ints]:
        """Users at a time: fewer where each has many items that are scored exactly."""
        num_exact = min(num_items, max(MIN_CANDIDATES, CANDIDATES_PER_ITEM * self.k))
        size = max(1, min(USERS_PER_BATCH, EXACT_SCORES // max(num_exact, 1)))
        for first in range(0, num_users, size):
            yield np.arange(first, min(first + size, num_users))

    def _best(
        self, opened: Opened, asked: AskedTasks, users: Ints
    ) -> tuple[TaskTable, list[TopItems]]:
        tasks = asked.tasks.take(users)
        seen = None
        if self.exclude_seen:
            seen = join_lists(tasks.support_item, asked.also_seen.take(users))
        return tasks, opened.of_catalogue.top(tasks, self.k, exclude=seen)

    def _columns(self, opened: Opened, tasks: TaskTable, top: list[TopItems]) -> dict[str, Any]:
        """What is written of users' best items, row by row, for each column of the schema.

        ``tasks`` are what is known of these users.
        """
        item = np.concatenate([one.item for one in top])
        score = np.concatenate([one.score for one in top])
        columns = {"item": opened.item.take(pa.array(item)), "score": score.astype(np.float32)}
        return columns | ({WHY.name: self._whys(opened, tasks, top)} if self.explain else {})

    def _whys(self, opened: Opened, tasks: TaskTable, top: list[TopItems]) -> list[list[str]]:
        """Why each item has its score, row by row."""
        whys = []
        for number, best in enumerate(top):
            user = opened.explain(tasks.take(np.array([number])))
            for index in best.item.tolist():
                whys.append(user.explain(index, None).reasons(self.explain))
        return whys
