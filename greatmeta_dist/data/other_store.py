"""A store that was prepared from other data, as a run's model sees it.

Items and user features are found by their ids and values in the catalogue of the run. Items that it
does not have stand as one *unknown item*, which comes after the catalogue.

Shapes: I items of the catalogue, J items of the other store; U users.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from greatmeta_dist.data.manifest import Field
from greatmeta_dist.data.store import FeatureSpec, Store, UserTasks
from greatmeta_dist.data.tasks import Features
from greatmeta_dist.errors import require
from greatmeta_dist.ragged import Ragged

LOG_SPLIT = "user_cold"
"""The scenario that all users of a log are."""


@dataclass(frozen=True)
class Unknown:
    """How much of a split the run does not know."""

    items: int
    """Items of the store that are not in the catalogue."""
    support_rows: int
    num_support_rows: int
    query_rows: int
    num_query_rows: int


class OtherStore(Store):
    """A store whose tasks ask a run about its own items.

    ``manifest`` is the store's own, but for what a model takes from its training: the number of
    items, and the range of ratings.
    """

    def __init__(self, store: Store, catalogue: Store, *, has_one_split: bool = False):
        """With ``has_one_split`` all users are ``LOG_SPLIT``, whatever split they are in.

        Raises ``InputError`` where the store cannot be asked of a model of the catalogue.
        """
        super().__init__(store.folder)
        self._catalogue = catalogue
        _require_fits(store, catalogue)
        self._shards = {
            split: [(split, k) for k in range(num)] for split, num in store.manifest.shards.items()
        }
        splits = store.manifest.splits
        if has_one_split:
            kept = [name for name in ("train", "valid", LOG_SPLIT) if name in splits]
            self._shards = {LOG_SPLIT: [shard for name in kept for shard in self._shards[name]]}
            splits = {LOG_SPLIT: sum(splits[name] for name in kept)}
        has_groups = store.manifest.known_groups == catalogue.manifest.known_groups
        self.manifest = replace(
            store.manifest,
            splits=splits,
            shards={split: len(shards) for split, shards in self._shards.items()},
            num_items=catalogue.manifest.num_items,
            ratings=catalogue.manifest.ratings,
            known_groups=store.manifest.known_groups if has_groups else {},
        )
        index_of = {token: k for k, token in enumerate(catalogue.item_tokens())}
        tokens = store.item_tokens()
        unknown = catalogue.manifest.num_items
        self._index = np.array([index_of.get(token, unknown) for token in tokens], np.int32)

    def shard(self, split: str, number: int) -> pa.RecordBatch:
        return super().shard(*self._shards[split][number])

    def tasks_of(self, batch: pa.RecordBatch, feature_spec: FeatureSpec) -> UserTasks:
        users = super().tasks_of(batch, feature_spec)
        tasks = replace(
            users.tasks,
            features=self._features(users.tasks.features, feature_spec, len(users)),
            support_item=self._mapped(users.tasks.support_item),
            query_item=self._mapped(users.tasks.query_item),
        )
        return replace(users, tasks=tasks)

    def unknown(self, split: str, feature_spec: FeatureSpec) -> Unknown:
        """How much of a split is of items that the catalogue does not have."""
        unknown, counts = self.manifest.num_items, np.zeros(4, np.int64)
        for number in range(self.manifest.shards[split]):
            tasks = self.tasks_of(self.shard(split, number), feature_spec).tasks
            rows = [items.values for items in (tasks.support_item, tasks.query_item)]
            counts += [n for r in rows for n in (int((r == unknown).sum()), len(r))]
        return Unknown(int((self._index == unknown).sum()), *map(int, counts))

    def _mapped(self, items: Ragged) -> Ragged:
        return Ragged(self._index[items.values], items.offsets)

    def _features(self, features: Features, spec: FeatureSpec, num_users: int) -> Features:
        """Users' features as embedding rows of the run; unknown where the store has no such."""
        own = {f.name: k for k, f in enumerate(self.fields("user", spec))}
        fields = self._catalogue.fields("user", spec)
        offsets = np.arange(num_users + 1)
        lists = []
        for field in fields:
            if field.name in own:
                values = features.fields[own[field.name]]
                rows = self._rows(field)[values.values]
                lists.append(Ragged(rows, values.offsets))
            else:
                lists.append(Ragged(np.full(num_users, field.unknown_row, np.int32), offsets))
        return Features(
            tuple(lists),
            tuple(f.is_list and spec.list_pooling == "mean" for f in fields),
            tuple(f.unknown_row for f in fields),
        )

    def _rows(self, field: Field) -> NDArray[np.int32]:
        """[embedding rows of the store] the run's embedding row of each; by value of a field."""
        (own,) = (f for f in self.manifest.fields if (f.side, f.name) == (field.side, field.name))
        rows = np.full(self.manifest.num_rows, field.unknown_row, np.int32)
        # Bins are named by their number: of other edges they are other values.
        if own.edges == field.edges:
            values, places = self.vocabulary(own)
            known, known_rows = self._catalogue.vocabulary(field)
            row_of = dict(zip(known.to_pylist(), known_rows.tolist(), strict=True))
            rows[places] = [row_of.get(v, field.unknown_row) for v in values.to_pylist()]
        return rows


def _require_fits(store: Store, catalogue: Store) -> None:
    """Raises ``InputError`` where labels of the store mean something else than the run's."""
    other, own = store.manifest, catalogue.manifest
    kinds: Sequence[str] = [
        "clicks alone" if m.is_implicit else "clicks" if m.is_click else "ratings"
        for m in (other, own)
    ]
    require(
        kinds[0] == kinds[1],
        f"{store.folder} holds {kinds[0]}, and the run predicts {kinds[1]}; prepare the data with "
        "the data.label and data.click_at of the run's store",
    )
    low, high = own.ratings.lowest, own.ratings.highest
    require(
        own.is_click or (low <= other.ratings.lowest and other.ratings.highest <= high),
        f"ratings of {store.folder} go from {other.ratings.lowest:g} to {other.ratings.highest:g}, "
        f"those of the run from {low:g} to {high:g}; bring the log's ratings onto that scale",
    )
