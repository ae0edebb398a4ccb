"""Scenarios of new items once more, with the ratings of these items that the supports hold.

By content alone nobody's rating of a new item is known. In use some are: whoever is asked about has
rated some of them. A user's own query never counts, for only supports are read.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from greatmeta_dist.batching.read import read_split
from greatmeta_dist.data.store import FeatureSpec, Store
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.evaluation.scoring import USERS_PER_BATCH, Predicts, Scorer

SCENARIOS_OF_NEW_ITEMS = ("item_cold", "both_cold")
RATED = "_rated"
"""What the name of a scenario ends in where the supports' ratings of new items are known."""

Tables = Callable[[], Iterable[TaskTable]]
"""The users of a scenario in batches; the same at every call."""


@dataclass(frozen=True)
class RatedNewItems:
    """A model that knows some ratings of new items, beside others that know the same."""

    scorer: Scorer
    others: Predicts
    num_items: int
    """New items that are rated."""
    num_ratings: int

    @property
    def counts(self) -> dict[str, int]:
        """As ``evaluation.json`` has them."""
        return {"items": self.num_items, "ratings": self.num_ratings}


KnowNewItems = Callable[[Tables], RatedNewItems | None]
"""Learns new items from users' supports; None where these have no rating of one."""
NOT_RATED = {"items": 0, "ratings": 0}


def tables_of(store: Store, split: str, feature_spec: FeatureSpec) -> Tables:
    """The users of a split of a store."""

    def tables() -> Iterator[TaskTable]:
        for users in read_split(store, split, feature_spec, users_per_batch=USERS_PER_BATCH):
            assert users is not None
            yield users.tasks

    return tables
