"""The log that a store keeps (``data.keep_log``): its checked rows, so that the store can grow.

``log/rows-<n>.arrow`` are the rows by bucket, as the units of the log wrote them;
``log/users.parquet`` and ``log/items.parquet`` the features as the files had them;
``log/rejects.parquet`` the log's rejected rows, and ``log/index.json`` says what is where.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from greatmeta_dist.data.buckets import BucketFile, BucketWriter
from greatmeta_dist.data.manifest import MANIFEST
from greatmeta_dist.data.phases import Phases
from greatmeta_dist.data.units import Result
from greatmeta_dist.errors import require
from greatmeta_dist.files import sha256, write_json_atomically, written_atomically

LOG = "log"
INDEX = f"{LOG}/index.json"
REJECTED, USERS, ITEMS = (f"{LOG}/{name}.parquet" for name in ("rejects", "users", "items"))
CARRY = "take over the log"
ID_TYPES: dict[str, pl.DataType] = {"Int64": pl.Int64(), "String": pl.String()}


@dataclass(frozen=True)
class LogIndex:
    """What a kept log is like."""

    num_buckets: int
    user_type: str
    """``Int64`` or ``String``, as the rows have users."""
    item_type: str
    num_read: int
    """Rows of the log, with those that were rejected or not rated."""
    num_unrated: int
    num_other_events: int
    events: dict[str, int]
    """With ``data.events``: rows of each event."""
    num_bytes: int
    """Of the log's files."""
    has_time: bool
    has_ratings: bool
    time_unit: str | None
    user_features: dict[str, str]
    """Features and their kinds."""
    item_features: dict[str, str]
    files: list[str]
    """Of rows, in the order of the log."""
    buckets: list[list[int]]
    """Of each file, the bucket of each record batch."""

    def write(
        self,
        folder: Path,
        users: pl.DataFrame | None,
        items: pl.DataFrame | None,
        rejected: pl.DataFrame,
    ) -> dict[str, str]:
        """Write it into a store's folder, with the tables that it has; their checksums.

        The tables are the features of users and of items, as files had them, and the rejected rows.
        """
        write_json_atomically(folder / INDEX, asdict(self))
        tables = {USERS: users, ITEMS: items, REJECTED: rejected}
        written = {name: table for name, table in tables.items() if table is not None}
        for name, table in written.items():
            table.write_parquet(folder / name)
        return {name: sha256(folder / name) for name in (INDEX, *written)}

    @classmethod
    def read(cls, path: Path) -> "LogIndex":
        return cls(**json.loads(path.read_text()))


def keep_rows(files: Sequence[BucketFile], folder: Path) -> tuple[list[str], dict[str, str]]:
    """Move the rows of a log into a store's folder; their names there, and their checksums.

    A file that is not there was moved before this process was started again.
    """
    (folder / LOG).mkdir(parents=True, exist_ok=True)
    names, checksums = [], {}
    for number, file in enumerate(files):
        name = f"{LOG}/rows-{number:05d}.arrow"
        if file.path.exists():
            file.path.rename(folder / name)
        names.append(name)
        checksums[name] = file.sha256
    return names, checksums


@dataclass(frozen=True)
class KeptRows:
    """The rows that a store keeps, to be taken over into another one."""

    store: Path
    index: LogIndex
    checksums: dict[str, str]
    items: pl.Series
    """The tokens of its catalogue."""

    def items_as(self, kind: pl.DataType) -> pl.Series:
        """Its items as rows have them; tokens that stand for no such value are in no row."""
        items = self.items.cast(kind, strict=False)
        return items.filter((items.cast(pl.String) == self.items).fill_null(False)).alias("item")

    @property
    def id_types(self) -> dict[str, pl.DataType]:
        """How the rows have users and items."""
        return {"user": ID_TYPES[self.index.user_type], "item": ID_TYPES[self.index.item_type]}

    def take_over(
        self, phases: Phases, num_buckets: int, id_types: dict[str, pl.DataType]
    ) -> list[BucketFile]:
        """Copy the rows; into more buckets, and with ids as text, where that is asked for.

        A unit is a file. Raises ``InputError`` where a file is damaged.
        """
        is_same = num_buckets == self.index.num_buckets and id_types == self.id_types
        carry = _CarryUnit(
            self.store, num_buckets, None if is_same else id_types, phases.folder_of(CARRY)
        )
        units = [
            [name, self.checksums[name], buckets]
            for name, buckets in zip(self.index.files, self.index.buckets, strict=True)
        ]
        results = phases.run(CARRY, carry, units)
        return [
            BucketFile(carry.path(k), tuple(result["buckets"]), result["sha256"])
            for k, result in enumerate(results)
        ]


@dataclass(frozen=True)
class _CarryUnit:
    """Copies a file of rows; a unit is its name, checksum and buckets."""

    store: Path
    num_buckets: int
    id_types: dict[str, pl.DataType] | None
    """None where the file stays as it is."""
    folder: Path

    def path(self, number: int) -> Path:
        return self.folder / f"rows-{number}.arrow"

    def __call__(self, number: int, unit: Sequence) -> Result:
        name, checksum, buckets = unit
        source = self.store / name
        with written_atomically(self.path(number)) as partial:
            if self.id_types is None or not buckets:
                shutil.copyfile(source, partial)
            else:
                buckets = self._assign(source, partial)
            require(
                sha256(source) == checksum,
                f"{source} does not match its checksum in {MANIFEST}; {self.store} is damaged and "
                "cannot grow: prepare its logs again",
            )
            return {"buckets": buckets, "sha256": sha256(partial)}

    def _assign(self, source: Path, target: Path) -> list[int]:
        """Assign the rows to buckets anew, a batch at a time: a user's rows stay in order."""
        assert self.id_types is not None
        with (
            pa.memory_map(str(source)) as mapped,
            pa.ipc.open_file(mapped) as reader,
            BucketWriter(target, self.num_buckets) as writer,
        ):
            for k in range(reader.num_record_batches):
                rows = pl.from_arrow(pa.Table.from_batches([reader.get_batch(k)]))
                assert isinstance(rows, pl.DataFrame)
                writer.write(rows.with_columns(pl.col(c).cast(t) for c, t in self.id_types.items()))
        return writer.buckets
