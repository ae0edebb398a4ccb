"""The prepared data on disk: what the files are, and memory-mapped reading of them.

``manifest.json`` (written last, with a checksum of every other file), ``vocab/<field>.parquet``,
``items.arrow``, ``item_factors.arrow``, ``factorisations/<start>-{items,users}.arrow``,
``shards/<part>-<n>.arrow``: one record batch each, one row per task, interactions as lists of item
index and rating (8 bytes each); features are looked up, never joined in.
"""

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from greatmeta_dist.data.tasks import Features, TaskTable
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.priors.bayesian_mf import BayesianMF
from greatmeta_dist.priors.mixture import Mixture
from greatmeta_dist.ragged import Ragged

FORMAT_VERSION = 7
MANIFEST = "manifest.json"
FACTORS = "item_factors.arrow"
FACTORISATION = "factorisations/{}-{}.arrow"
"""By start; ``items`` or ``users``."""
ITEM_ID = "item_id"
"""The field of an item's own embedding row."""


@dataclass(frozen=True)
class Field:
    """One feature, with its own block of ids in the shared row space."""

    name: str
    side: str
    """``user`` or ``item``."""
    is_list: bool
    num_rows: int
    """Values with a row of their own, and the unknown row."""
    unknown_row: int
    """The embedding row of every other value."""


@dataclass(frozen=True)
class Ratings:
    """The training users' ratings."""

    lowest: float
    highest: float
    mean: float
    deviation: float
    count: int
    item_damping: float
    """Ratings' worth of prior of an item's mean: the variance of ratings about their item's mean
    over the variance between items about what their features say, both estimated from the training
    users."""
    user_damping: float
    """As much for a user's offset from the items' means."""


@dataclass(frozen=True)
class Cluster:
    """Training users of like preferences."""

    size: int
    difficulty: float
    """What item means and user offsets leave of a user's ratings, mean square, in the mean over its
    users, over that of all users."""
    difficulty_error: float
    """Standard error of ``difficulty``."""


@dataclass(frozen=True)
class Manifest:
    """What a store holds."""

    format_version: int
    fields: list[Field]
    num_rows: int
    """Embedding rows of all fields together."""
    num_items: int
    parts: dict[str, int]
    """Tasks of each part."""
    shards: dict[str, int]
    """Files of each part."""
    ratings: Ratings
    is_click: bool
    """Whether labels are clicks, 0 or 1, in place of ratings."""
    is_implicit: bool
    """Whether rows of label 0 were drawn, and say nothing of what a user met."""
    groups: list[str]
    """Names of preference groups; a task's ``group`` is an index here."""
    minority: list[int]
    """The smallest groups that together hold at most a fifth of the training users."""
    clusters: list[Cluster]
    """Clusters of preferences; a task's ``cluster`` is an index here."""
    recipe: dict[str, Any]
    """The data section that made the store."""
    fingerprint: str
    """Of the source files and the split."""
    notes: dict[str, float]
    checksums: dict[str, str]


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(json.dumps(asdict(manifest), indent=1))
    partial.replace(folder / MANIFEST)


def read_manifest(folder: Path) -> Manifest:
    """Read and check a manifest; raises ``InputError`` if the folder is no store."""
    path = folder / MANIFEST
    require(
        path.is_file(),
        f"{folder} is not a prepared store (no {MANIFEST}); name one with store=DIR, or make it: "
        f"greatmeta prepare data=<preset> data.path=<files> store={folder}",
    )
    try:
        raw = json.loads(path.read_text())
        require(
            isinstance(raw, dict) and "format_version" in raw,
            f"{folder} is not a prepared store ({MANIFEST} in it is something else); choose "
            "another folder",
        )
        version = raw["format_version"]
        require(
            version == FORMAT_VERSION,
            f"{folder} has format version {version}, this program reads {FORMAT_VERSION}; "
            f"delete {folder} and prepare the data again",
        )
        raw["fields"] = [Field(**f) for f in raw["fields"]]
        raw["ratings"] = Ratings(**raw["ratings"])
        raw["clusters"] = [Cluster(**c) for c in raw["clusters"]]
        return Manifest(**raw)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is damaged; if {folder} is a store, delete it and prepare the data again"
        ) from error


def map_arrow(path: Path) -> pa.RecordBatch:
    """The single record batch of an Arrow file, memory-mapped."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        assert reader.num_record_batches == 1, f"{path} has {reader.num_record_batches} batches"
        return reader.get_batch(0)


def write_arrow(path: Path, batch: pa.RecordBatch) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def write_factors(folder: Path, item: NDArray[np.int64], factors: NDArray[np.float32]) -> None:
    """Factors [n, k] of the items [n]."""
    columns = {"item": pa.array(item), "factors": _matrix_column(factors)}
    write_arrow(folder / FACTORS, pa.RecordBatch.from_pydict(columns))


def write_factorisations(folder: Path, found: list[BayesianMF]) -> None:
    for start, one in enumerate(found):
        items = {"item": pa.array(one.item)}
        for name in ("mean", "variance", "with_offset"):
            items[name] = _matrix_column(getattr(one, name))
        users = {"weight": pa.array(one.prior.weight), "mean": _matrix_column(one.prior.mean)}
        noise = {"noise": repr(float(one.noise))}
        precision = {"precision": json.dumps(one.prior.precision.tolist())}
        for side, columns, more in (("items", items, noise), ("users", users, precision)):
            batch = pa.RecordBatch.from_pydict(columns, metadata=more)
            write_arrow(folder / FACTORISATION.format(start, side), batch)


def _matrix_column(matrix: NDArray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def _matrix_of(column: pa.Array) -> NDArray:
    matrix: NDArray = column.values.to_numpy().reshape(len(column), column.type.list_size)
    return matrix


def list_array(ragged: Ragged, kind: pa.DataType) -> pa.Array:
    return pa.LargeListArray.from_arrays(
        pa.array(ragged.offsets, pa.int64()), pa.array(ragged.values, kind)
    )


def ragged_of(column: pa.Array) -> Ragged:
    """A list column as views of its buffers."""
    return Ragged(
        column.values.to_numpy(zero_copy_only=True), column.offsets.to_numpy(zero_copy_only=True)
    )


@dataclass(frozen=True)
class Part:
    """One part's tasks."""

    tasks: TaskTable
    user: list[str]
    group: NDArray[np.int32]
    """What the records tell users apart by."""
    cluster: NDArray[np.int32]
    """What training balances: the same, but for synthetic data, whose true groups no system would
    know."""

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class FeatureSpec:
    """Which fields a model uses, and how it pools lists."""

    has_item_id: bool
    list_pooling: str
    """``mean`` or ``sum``."""


class Store:
    """A prepared store, opened; arrays are views of mapped files wherever a part is one file."""

    def __init__(self, folder: Path):
        """Open a store; raises ``InputError`` where a file is missing.

        What is read of it is checked against its checksum when it is first read, if ``check`` has
        not done so.
        """
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._checked: set[str] = set()
        for name in self.manifest.checksums:
            self._require(name, (folder / name).is_file(), "is missing")

    def check(self, rank: int = 0, size: int = 1) -> None:
        """Check the files now, every ``size``-th of them; raises ``InputError`` where one is not as
        it was written."""
        for name in list(self.manifest.checksums)[rank::size]:
            self._path(name)

    def _path(self, name: str) -> Path:
        """One of the files, known to be as it was written."""
        path = self.folder / name
        if name not in self._checked:
            is_whole = path.is_file() and checksum(path) == self.manifest.checksums[name]
            self._require(name, is_whole, "does not match its checksum")
            self._checked.add(name)
        return path

    def _require(self, name: str, condition: bool, state: str) -> None:
        path = self.folder / name
        require(condition, f"{path} {state}; delete {self.folder} and prepare the data again")

    @property
    def identity(self) -> str:
        """A hash of everything the store holds, wherever it lies."""
        return hashlib.sha256(json.dumps(self.manifest.checksums).encode()).hexdigest()

    def fields(self, side: str, choice: FeatureSpec) -> list[Field]:
        return [
            f
            for f in self.manifest.fields
            if f.side == side and (choice.has_item_id or f.name != ITEM_ID)
        ]

    @cached_property
    def _items(self) -> pa.RecordBatch:
        return map_arrow(self._path("items.arrow"))

    def item_tokens(self) -> list[str]:
        return self._items.column("item").to_pylist()

    def item_statistics(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ratings each item has from training users: their number and sum, [items] each."""
        return (
            self._items.column("train_count").to_numpy(),
            self._items.column("train_sum").to_numpy(),
        )

    def content_mean(self) -> NDArray[np.float64]:
        """[items] the rating that an item's features lead to expect."""
        return self._items.column("expected").to_numpy()

    def item_factors(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Items and their factors of the training users' ratings: [n], [n, k]."""
        batch = map_arrow(self._path(FACTORS))
        return batch.column("item").to_numpy(), _matrix_of(batch.column("factors"))

    def factorisations(self) -> list[BayesianMF]:
        """Of the training users' ratings less what their items' features lead to expect."""
        names = (FACTORISATION.format(start, "items") for start in itertools.count())
        written = itertools.takewhile(lambda name: name in self.manifest.checksums, names)
        return [self._factorisation(start) for start, _ in enumerate(written)]

    def _factorisation(self, start: int) -> BayesianMF:
        items, users = (
            map_arrow(self._path(FACTORISATION.format(start, side))) for side in ("items", "users")
        )
        precision = np.array(json.loads(users.schema.metadata[b"precision"]))
        return BayesianMF(
            items.column("item").to_numpy(),
            mean=_matrix_of(items.column("mean")),
            variance=_matrix_of(items.column("variance")),
            with_offset=_matrix_of(items.column("with_offset")),
            noise=float(items.schema.metadata[b"noise"]),
            prior=Mixture(
                users.column("weight").to_numpy(), _matrix_of(users.column("mean")), precision
            ),
        )

    def item_features(self, choice: FeatureSpec) -> Features:
        return _features(self._items, self.fields("item", choice), choice)

    def shard(self, part: str, number: int) -> pa.RecordBatch:
        return map_arrow(self._path(shard_name(part, number)))

    @cached_property
    def train_sizes(self) -> list[int]:
        """Training users of each shard, as its unchecked header says: all workers ask of all."""
        names = [shard_name("train", k) for k in range(self.manifest.shards["train"])]
        try:
            return [map_arrow(self.folder / name).num_rows for name in names]
        except (pa.ArrowInvalid, OSError):
            self.check()
            raise

    def part(self, part: str, choice: FeatureSpec) -> Part:
        """All tasks of a part."""
        shards = [self.shard(part, k) for k in range(self.manifest.shards[part])]
        return self.tasks_of(shards[0] if len(shards) == 1 else _joined(shards), choice)

    def tasks_of(self, batch: pa.RecordBatch, choice: FeatureSpec) -> Part:
        tasks = TaskTable(
            _features(batch, self.fields("user", choice), choice),
            ragged_of(batch.column("support_item")),
            ragged_of(batch.column("support_rating")),
            ragged_of(batch.column("query_item")),
            ragged_of(batch.column("query_rating")),
        )
        return Part(
            tasks,
            batch.column("user").to_pylist(),
            batch.column("group").to_numpy(),
            batch.column("cluster").to_numpy(),
        )


def shard_name(part: str, number: int) -> str:
    return f"shards/{part}-{number:05d}.arrow"


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def _features(batch: pa.RecordBatch, fields: list[Field], choice: FeatureSpec) -> Features:
    return Features(
        tuple(ragged_of(batch.column(f"feature:{f.name}")) for f in fields),
        tuple(f.is_list and choice.list_pooling == "mean" for f in fields),
        tuple(f.unknown_row for f in fields),
    )


def write_vocabulary(path: Path, values: list[str | None], rows: NDArray, counts: NDArray) -> None:
    """A field's values (null for unknown), their rows, and how often training saw them."""
    pq.write_table(pa.table({"value": values, "row": rows, "count": counts}), path)
