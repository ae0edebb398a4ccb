"""The prepared data on disk, opened: memory-mapped reading of tasks, items and vocabularies.

``manifest.json`` (written last, with a checksum of every other file), ``vocab/<field>.parquet``,
``items.arrow``, ``shards/<split>-<n>.arrow``: one record batch each. A shard has one row for each
task, its interactions as lists of item index and rating (8 bytes each). Item features are looked
up, never joined in. A store holds data alone: nothing in it is learnt.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from greatmeta_dist.data.arrow import join_batches, map_arrow, num_rows, ragged_of
from greatmeta_dist.data.manifest import (
    ITEM_ID,
    MANIFEST,
    Field,
    read_manifest,
    write_manifest,
)
from greatmeta_dist.data.tasks import Features, TaskTable
from greatmeta_dist.errors import require
from greatmeta_dist.files import sha256
from greatmeta_dist.priors.base import ItemFeature, TrainingRows, UserRows
from greatmeta_dist.ragged import Ragged, join_lists
from greatmeta_dist.storage.local_copy import LocalCopy

ITEMS = "items.arrow"


@dataclass(frozen=True)
class FeatureSpec:
    """Which fields a model uses, and how it pools lists."""

    has_item_id: bool
    list_pooling: str
    """``mean`` or ``sum``."""


@dataclass(frozen=True)
class UserTasks:
    """Tasks, and whose they are."""

    tasks: TaskTable
    user: list[str]
    known_group: NDArray[np.int32] | None
    """[users] true preference group; None where the store knows none."""

    def __len__(self) -> int:
        return len(self.user)


class Store:
    """A prepared store, opened; arrays are views of mapped files wherever a split is one file."""

    def __init__(self, folder: Path):
        """Open a store; raises ``InputError`` where a file is missing.

        Files are checked against their checksums when they are first read, or all by ``check``.
        """
        self.folder, self._copy = folder, LocalCopy.of(folder)
        objects = self._copy.pull(MANIFEST.__eq__) if self._copy is not None else None
        self.manifest = read_manifest(folder)
        self._checked: set[str] = set()
        for name in self.manifest.checksums:
            is_there = (folder / name).is_file() if objects is None else name in objects
            self._require(name, is_there, "is missing")

    def check(self, rank: int = 0, size: int = 1) -> None:
        """Check every ``size``-th file now; raises ``InputError`` where one has changed.

        The log that the store keeps is checked where it is used; so is all that is on an object
        store, because a check reads it, and a worker needs no more than its own shards.
        """
        if self._copy is not None:
            return
        names = [name for name in self.manifest.checksums if not name.startswith("log/")]
        for name in names[rank::size]:
            self.path(name)

    @property
    def identity(self) -> str:
        """A hash of all that can be learnt from, wherever the store lies.

        The log that a store keeps is no part of it: the order of its rows may be another.
        """
        checksums = {k: v for k, v in self.manifest.checksums.items() if not k.startswith("log/")}
        return hashlib.sha256(json.dumps(checksums).encode()).hexdigest()

    # --- items --------------------------------------------------------------------------------

    def fields(self, side: str, feature_spec: FeatureSpec) -> list[Field]:
        """The fields of users or items that a model uses."""
        return [
            f
            for f in self.manifest.fields
            if f.side == side and (feature_spec.has_item_id or f.name != ITEM_ID)
        ]

    def item_tokens(self) -> list[str]:
        return self._items.column("item").to_pylist()

    def item_features(self, feature_spec: FeatureSpec) -> Features:
        """Embedding rows of every item's values."""
        fields = self.fields("item", feature_spec)
        return Features(
            tuple(self._item_rows(f) for f in fields),
            tuple(f.is_list and feature_spec.list_pooling == "mean" for f in fields),
            tuple(f.unknown_row for f in fields),
        )

    def vocabulary(self, field: Field) -> tuple[pa.ChunkedArray, NDArray[np.int32]]:
        """A field's values that have an embedding row of their own, and these rows."""
        table = pq.read_table(self.path(f"vocab/{field.name}.parquet"), columns=["value", "row"])
        frequent = table.slice(0, field.num_rows - 1)
        return frequent["value"], frequent["row"].to_numpy()

    def _item_rows(self, field: Field) -> Ragged:
        codes = ragged_of(self._items.column(f"code:{field.name}"))
        table = pq.read_table(self.path(f"vocab/{field.name}.parquet"), columns=["row"])
        return Ragged(table["row"].to_numpy()[codes.values], codes.offsets)

    @cached_property
    def _items(self) -> pa.RecordBatch:
        return map_arrow(self.path(ITEMS))

    # --- tasks --------------------------------------------------------------------------------

    def shard(self, split: str, number: int) -> pa.RecordBatch:
        return map_arrow(self.path(shard_name(split, number)))

    @cached_property
    def train_sizes(self) -> list[int]:
        """Training users of each shard, by its unchecked header: all workers ask for all."""
        names = [shard_name("train", k) for k in range(self.manifest.shards["train"])]
        try:
            if self._copy is not None:
                return [self._num_rows(self._copy, name) for name in names]
            return [map_arrow(self.folder / name).num_rows for name in names]
        except (pa.ArrowInvalid, OSError):
            self.check()
            raise

    @staticmethod
    def _num_rows(copy: LocalCopy, name: str) -> int:
        """Rows of a shard on an object store, of which little is read."""
        with copy.origin.open(name) as file:
            return num_rows(file)

    def split(self, split: str, feature_spec: FeatureSpec) -> UserTasks:
        """All tasks of a split."""
        shards = [self.shard(split, k) for k in range(self.manifest.shards[split])]
        return self.tasks_of(join_batches(shards), feature_spec)

    def tasks_of(self, batch: pa.RecordBatch, feature_spec: FeatureSpec) -> UserTasks:
        """The tasks in rows of a shard."""
        fields = self.fields("user", feature_spec)
        features = Features(
            tuple(ragged_of(batch.column(f"feature:{f.name}")) for f in fields),
            tuple(f.is_list and feature_spec.list_pooling == "mean" for f in fields),
            tuple(f.unknown_row for f in fields),
        )
        tasks = TaskTable(
            features,
            ragged_of(batch.column("support_item")),
            ragged_of(batch.column("support_rating")),
            ragged_of(batch.column("query_item")),
            ragged_of(batch.column("query_rating")),
        )
        known = batch.column("known_group").to_numpy() if self.manifest.known_groups else None
        return UserTasks(tasks, batch.column("user").to_pylist(), known)

    # --- training rows ------------------------------------------------------------------------

    def training_rows(self) -> TrainingRows:
        """What priors are fitted to."""
        fields = [f for f in self.manifest.fields if f.side == "item" and f.name != ITEM_ID]
        return TrainingRows(
            item_count=self._items.column("train_count").to_numpy(),
            item_sum=self._items.column("train_sum").to_numpy(),
            item_squares=self._items.column("train_squares").to_numpy(),
            features=[self._item_feature(f) for f in fields],
            is_implicit=self.manifest.is_implicit,
            chunks=self._training_chunks,
        )

    def _item_feature(self, field: Field) -> ItemFeature:
        table = pq.read_table(self.path(f"vocab/{field.name}.parquet"), columns=["value"])
        number = f"number:{field.name}"
        has_numbers = number in self._items.schema.names
        return ItemFeature(
            field.name,
            values=table["value"].to_pylist()[:-1],
            is_list=field.is_list,
            codes=ragged_of(self._items.column(f"code:{field.name}")),
            num_frequent=field.num_rows - 1,
            number=self._items.column(number).to_numpy() if has_numbers else None,
        )

    def _training_chunks(self) -> Iterator[UserRows]:
        """One chunk a shard: of a training user, support and query are both known."""
        for number in range(self.manifest.shards["train"]):
            shard = self.shard("train", number)
            item, rating = (
                join_lists(
                    ragged_of(shard.column(f"support_{name}")),
                    ragged_of(shard.column(f"query_{name}")),
                )
                for name in ("item", "rating")
            )
            yield UserRows(item, rating.values.astype(np.float64))

    def path(self, name: str) -> Path:
        """One of the files, known to be as it was written.

        From an object store it is fetched once, into this machine's copy.
        """
        path = self.folder / name
        if name not in self._checked:
            expected = self.manifest.checksums[name]
            is_whole = path.is_file() and sha256(path) == expected
            if not is_whole and self._copy is not None:
                is_whole = self._copy.fetch(name) == expected
            self._require(name, is_whole, "does not match its checksum")
            self._checked.add(name)
        return path

    def _require(self, name: str, condition: bool, state: str) -> None:
        path = self.folder / name
        require(condition, f"{path} {state}; delete {self.folder} and prepare the data again")


def shard_name(split: str, number: int) -> str:
    return f"shards/{split}-{number:05d}.arrow"


def write_catalogue(store: Store, folder: Path) -> None:
    """Copy a store without its tasks into an existing folder: items and vocabularies.

    What a model needs to know of the data in order to predict when the store is gone. The copy
    opens as a ``Store`` that has no splits.
    """
    names = [n for n in store.manifest.checksums if n == ITEMS or n.startswith("vocab/")]
    (folder / "vocab").mkdir()
    for name in names:
        shutil.copyfile(store.path(name), folder / name)
    checksums = {name: store.manifest.checksums[name] for name in names}
    manifest = replace(store.manifest, splits={}, shards={}, checksums=checksums)
    write_manifest(folder, manifest)
