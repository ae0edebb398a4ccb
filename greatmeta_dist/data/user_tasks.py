"""A bucket of a log → tasks of its users that ask for nothing, in the order of the log.

Items that the catalogue does not have count as one *unknown item*, whose index comes after it; a
user may know several. Of very long histories as many rows are read as a support may have; the other
items are kept apart, because they are known to the user, too.

Shapes: U users of a bucket, n interactions, I items of the catalogue.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.arrow import list_array, map_arrow, ragged_of, write_arrow
from greatmeta_dist.data.hashing import draw_bits, hash_tokens, pair_hashes
from greatmeta_dist.data.histories import read_history
from greatmeta_dist.data.manifest import Field
from greatmeta_dist.data.query_support import cap_supports
from greatmeta_dist.data.scan import ScannedLog
from greatmeta_dist.data.split import Bools, History, Ints
from greatmeta_dist.data.store import FeatureSpec
from greatmeta_dist.data.tables import shared_table, write_table
from greatmeta_dist.data.tasks import Features, TaskTable
from greatmeta_dist.data.units import Result
from greatmeta_dist.data.vocabulary import Vocabulary, binned
from greatmeta_dist.files import written_atomically
from greatmeta_dist.ragged import Ragged, offsets_of, stable_order

GROUP = "group users"
INDEX, USERS = "index.arrow", "users.arrow"


@dataclass(frozen=True)
class AskedTasks:
    """Some users with what is known of them."""

    user: pa.Array
    """[U] as the log has them: integers or text."""
    tasks: TaskTable
    also_seen: Ragged
    """Of each user, items that are known and not in the support."""


@dataclass(frozen=True)
class GroupUnit:
    """Groups a bucket's rows by user; a unit is the bucket's number.

    The result counts ``users``, ``rows`` that are known of them, ``repeats``, users without a row
    (``unknown_users``) and above ``data.max_support`` (``long_users``), rows of items that the
    run's catalogue does not have (``unknown_rows``), and unknown values by feature.
    """

    log: ScannedLog
    config: DataConfig
    has_time: bool
    num_trained: int
    """Items of the catalogue that the run was trained on."""
    num_items: int
    """With those that are added behind it."""
    vocabularies: Sequence[Vocabulary]
    """Of the users' features that the model reads."""
    folder: Path
    """Has what ``write_asked_context`` wrote."""

    def tasks_path(self, bucket: int) -> Path:
        """The tasks of a bucket that has users."""
        return self.folder / f"tasks-{bucket}.arrow"

    def rejects_path(self, bucket: int) -> Path:
        """Rows that repeat another one, where these are rejected."""
        return self.folder / f"repeats-{bucket}.arrow"

    def __call__(self, number: int, unit: int) -> Result:
        rows = self.log.bucket(unit)
        users = rows["user"].unique(maintain_order=True)
        index = shared_table(self.folder / INDEX)
        known = rows.filter(pl.col("item").is_not_null())
        bucket = read_history(known, index, self.config, has_time=self.has_time)
        if len(bucket.rejected):
            write_table(self.rejects_path(number), bucket.rejected)
        history, lengths = _in_order_of(users, bucket.history)
        is_read = self._is_read(history, index)
        columns: dict[str, Any] = {"user": users.to_arrow().cast(_id_type(users))}
        item = np.minimum(history.item, self.num_items)
        columns["item"] = _lists(item[is_read], history, is_read, lengths, pa.int32())
        rating = history.rating.astype(np.float32)[is_read]
        columns["rating"] = _lists(rating, history, is_read, lengths, pa.float32())
        columns["also_seen"] = _lists(item[~is_read], history, ~is_read, lengths, pa.int32())
        unknown_values = self._add_features(users.cast(pl.String), columns)
        if len(users):
            with written_atomically(self.tasks_path(number)) as partial:
                write_arrow(partial, pa.RecordBatch.from_pydict(columns))
        return {
            "users": len(users),
            "rows": len(history.item),
            "repeats": bucket.num_repeats,
            "rejected": len(bucket.rejected),
            "unknown_users": int((lengths == 0).sum()),
            "long_users": int((np.bincount(history.user[~is_read]) > 0).sum()),
            "unknown_rows": int((item >= self.num_trained).sum()),
            "unknown_values": unknown_values,
        }

    def _is_read(self, history: History, index: pl.DataFrame) -> Bools:
        """[n] which rows are of the support: at most ``data.max_support`` of a user."""
        everything = np.ones(len(history.item), bool)
        most = self.config.max_support
        if most is None or history.count(everything).max(initial=0) <= most:
            return everything
        hashes = np.empty(int(index["index"].max() or 0) + 1, np.uint64)  # type: ignore[arg-type]
        hashes[index["index"].to_numpy()] = index["hash"].to_numpy()
        pairs = pair_hashes(history.hash[history.user], hashes[history.item])
        draw = draw_bits(pairs, self.config.seed, "query")
        return cap_supports(history, everything, draw, self.config)

    def _add_features(self, tokens: pl.Series, columns: dict[str, Any]) -> dict[str, int]:
        """Add the embedding rows of users' features; returns the unknown values of each."""
        path, unknown = self.folder / USERS, {}
        features = tokens.alias("id").to_frame()
        if path.exists():
            features = features.join(shared_table(path), on="id", how="left", maintain_order="left")
        for vocabulary in self.vocabularies:
            name = vocabulary.field.name
            column = features.get_column(name, default=_nothing(vocabulary, len(tokens)))
            if vocabulary.field.edges is not None:
                column = binned(column, np.array(vocabulary.field.edges))
            rows = vocabulary.encode(column)
            columns[f"feature:{name}"] = list_array(rows, pa.int32())
            is_given = _each_value(column, vocabulary).is_not_null().to_numpy()
            is_unknown = rows.values == vocabulary.field.unknown_row
            unknown[name] = int((is_unknown & is_given).sum())
        return unknown


def write_asked_context(
    folder: Path, log: ScannedLog, items: Sequence[str], users: pl.DataFrame | None
) -> None:
    """Write what every bucket needs to know, as files: they may be large, and workers share them.

    ``items`` are the catalogue's and those added; ``users`` has the features of users by ``id``.
    """
    tokens = log.items.cast(pl.String)
    known = pl.DataFrame({"token": pl.Series(items, dtype=pl.String)}).with_row_index("index")
    asked = tokens.alias("token").to_frame()
    found = asked.join(known, on="token", how="left", maintain_order="left")["index"]
    # Each unknown item has an index of its own here, so that two are no repeats of one item.
    behind = len(items) + found.is_null().cast(pl.Int32).cum_sum() - 1
    index = pl.select(pl.coalesce(found.cast(pl.Int32), behind).cast(pl.Int32)).to_series()
    table = pl.DataFrame({"item": log.items, "index": index, "hash": hash_tokens(tokens)})
    write_table(folder / INDEX, table)
    if users is not None:
        write_table(folder / USERS, users)


def read_asked(
    path: Path, first: int, number: int, fields: Sequence[Field], spec: FeatureSpec
) -> AskedTasks:
    """``number`` users of a bucket's tasks, from the ``first`` on.

    ``fields`` are the users' features that the model reads.
    """
    batch = map_arrow(path).slice(first, number)
    item, rating = ragged_of(batch.column("item")), ragged_of(batch.column("rating"))
    none = np.zeros(number + 1, np.int64)
    tasks = TaskTable(
        Features(
            tuple(ragged_of(batch.column(f"feature:{f.name}")) for f in fields),
            tuple(f.is_list and spec.list_pooling == "mean" for f in fields),
            tuple(f.unknown_row for f in fields),
        ),
        item,
        rating,
        Ragged(np.empty(0, np.int32), none),
        Ragged(np.empty(0, np.float32), none),
    )
    return AskedTasks(batch.column("user"), tasks, ragged_of(batch.column("also_seen")))


def user_hashes(users: pa.Array) -> NDArray[np.uint64]:
    """[U] of users of any type: the same user has the same hash."""
    return hash_tokens(pl.Series(pl.from_arrow(users)).cast(pl.String))


def write_user_hashes(path: Path, tasks: Iterable[Path]) -> None:
    """Write the hashes of all users of some buckets, ascending."""
    hashes = [user_hashes(map_arrow(one).column("user")) for one in tasks]
    with written_atomically(path) as partial, partial.open("wb") as file:
        np.save(file, np.sort(np.concatenate(hashes)), allow_pickle=False)


def _in_order_of(users: pl.Series, history: History) -> tuple[History, Ints]:
    """The history with its users in the order of ``users`` [U], and each one's rows [U]."""
    tokens = users.cast(pl.String)
    place = pl.DataFrame({"token": tokens, "place": np.arange(len(tokens))})
    placed = history.token.alias("token").to_frame().join(
        place, on="token", how="left", maintain_order="left"
    )  # fmt: skip
    number = placed["place"].to_numpy()
    order = stable_order(number[history.user])
    history = replace(history.take(order), token=tokens, hash=hash_tokens(tokens))
    history = replace(history, user=number[history.user])
    return history, np.bincount(history.user, minlength=len(users))


def _lists(
    values: NDArray, history: History, rows: Bools, lengths: Ints, kind: pa.DataType
) -> pa.Array:
    """The ``values`` of the chosen rows, as a list for each user."""
    counts = np.bincount(history.user[rows], minlength=len(lengths))
    return list_array(Ragged(values, offsets_of(counts)), kind)


def _nothing(vocabulary: Vocabulary, number: int) -> pl.Series:
    kind = pl.List(pl.String) if vocabulary.field.is_list else pl.String
    return pl.Series(vocabulary.field.name, [None] * number, dtype=kind)


def _each_value(column: pl.Series, vocabulary: Vocabulary) -> pl.Series:
    """A feature's values, one by one, as ``Vocabulary.codes`` numbers them."""
    if not vocabulary.field.is_list:
        return column
    frame = column.alias("value").to_frame()
    return frame.explode("value", empty_as_null=True, keep_nulls=True)["value"]


def _id_type(users: pl.Series) -> pa.DataType:
    return pa.string() if users.dtype == pl.String else pa.int64()
