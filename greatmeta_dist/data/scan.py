"""The one pass over the whole log: every row is checked, and good rows go to buckets by user.

The log is cut into units of rows, in order. Each writes its good rows by bucket, and its bad rows
with a reason.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.buckets import BucketFile, BucketWriter, read_bucket
from greatmeta_dist.data.checked_columns import CheckedColumns, PartedRows
from greatmeta_dist.data.kept_log import KeptRows
from greatmeta_dist.data.phases import Phases
from greatmeta_dist.data.rejects import REJECT_SCHEMA, Rejects
from greatmeta_dist.data.sources import Source
from greatmeta_dist.data.tables import read_table, write_table
from greatmeta_dist.data.units import Result
from greatmeta_dist.errors import require
from greatmeta_dist.files import sha256, written_atomically

CHECK = "check the log"
UNIT_ROWS = 1 << 20
"""Rows of a unit, about: it is read as a whole. Of text, which is larger, half as many."""
UNIT_PIECES = 256
"""Most small files of a unit."""
BATCH_ROWS = 1 << 20
"""Rows that are checked at a time."""
BUCKET_BYTES = 1 << 24
"""Bytes of a log's files that make one bucket, about; a bucket is read into memory as a whole."""
MAX_BUCKETS = 128
MAX_EVENTS = 20
"""Of the events that a log has, the most frequent ones are reported."""


@dataclass(frozen=True)
class ScannedLog:
    """A log's good rows on disk, in buckets by user."""

    files: tuple[BucketFile, ...]
    """In the order of the log."""
    num_buckets: int
    num_read: int
    num_unrated: int
    num_other_events: int
    events: dict[str, int]
    """With ``data.events``: rows of each event, the most frequent first."""
    items_path: Path
    user_type: pl.DataType
    item_type: pl.DataType
    time_unit: str | None
    """The unit of times that are numbers; None where the log has none."""

    @property
    def items(self) -> pl.Series:
        """The distinct items, as they stand in the buckets: integers or text, ascending."""
        return read_table(self.items_path)["item"]

    def bucket(self, number: int) -> pl.DataFrame:
        """``user item rating timestamp line`` of a bucket's rows, in the order of the log.

        ``line`` counts these rows. With ``data.repeats=reject`` they have their ``file``, and their
        ``line_in_file``, too.
        """
        rows = read_bucket(self.files, number)
        if rows is None:
            number_types = {"rating": pl.Float64(), "timestamp": pl.Float64()}
            rows = pl.DataFrame(
                schema={"user": self.user_type, "item": self.item_type, **number_types}
            )
        return rows.with_columns(line=pl.int_range(pl.len(), dtype=pl.Int64))


def scan_log(
    source: Source,
    config: DataConfig,
    rejects: Rejects,
    folder: Path,
    *,
    phases: Phases | None = None,
    part_rows: Sequence[int] | None = None,
    earlier: KeptRows | None = None,
    keeps_users: bool = False,
    least_buckets: int = 1,
) -> ScannedLog:
    """Check every row of the log, and write the good ones by bucket.

    What does not belong to a unit is written into ``folder``: the distinct items, and the bad rows,
    which become ``rejects.on_disk``. ``part_rows`` are the rows of the source's frames, where they
    are known. ``earlier`` are good rows of an earlier store, which come first. With
    ``keeps_users`` every good user stays, also one whose rows do not count. Raises ``InputError``
    where the log has no row. There are at least ``least_buckets`` buckets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    phases = phases or Phases(folder)
    part_rows = part_rows or count_rows(source)
    require(sum(part_rows) > 0, "the log holds no interaction below its header")
    columns = CheckedColumns.of(source, config, keeps_users=keeps_users)
    number = max(num_buckets(source_bytes(source)), least_buckets)
    earlier_files: list[BucketFile] = []
    earlier_items = pl.Series("item", [], columns.id_types["item"])
    if earlier is not None:
        number = num_buckets(source_bytes(source) + earlier.index.num_bytes)
        number = max(number, earlier.index.num_buckets)
        columns = columns.beside(earlier.id_types)
        earlier_files = earlier.take_over(phases, number, columns.id_types)
        earlier_items = earlier.items_as(columns.id_types["item"])
    is_text = pl.String() in columns.id_types.values()
    units = _units(part_rows, UNIT_ROWS // 2 if is_text else UNIT_ROWS)
    scan = _ScanUnit(
        source.frames,
        columns,
        config.repeats_rule == "reject",
        config.keep_log,
        number,
        phases.folder_of(CHECK),
    )
    rows = [sum(num_rows for _, _, num_rows in unit) for unit in units]
    results = phases.run(CHECK, scan, units, unit_costs=rows)
    items = _distinct(earlier_items, [scan.items_path(k) for k in range(len(units))])
    write_table(folder / "items.arrow", items.to_frame("item"))
    if earlier is None:
        _require_events(config, _events(results))
    bad = [scan.rejects_path(k) for k, result in enumerate(results) if result["rejected"]]
    if bad:
        rejects.on_disk = folder / "rejected.parquet"
        _join(bad, rejects.on_disk)
    return ScannedLog(
        (*earlier_files, *(scan.bucket_file(k, result) for k, result in enumerate(results))),
        number,
        _total(results, "read"),
        _total(results, "unrated"),
        _total(results, "other_events"),
        most_common(_events(results)),
        folder / "items.arrow",
        columns.id_types["user"],
        items.dtype,
        columns.time_unit,
    )


@dataclass
class _Tally:
    """What a unit's batches come to."""

    num_read: int = 0
    num_unrated: int = 0
    num_other_events: int = 0
    events: Counter[str] = field(default_factory=Counter)
    items: list[pl.Series] = field(default_factory=list)
    """Of each batch, the distinct items."""
    bad: list[pl.DataFrame] = field(default_factory=list)
    """Of batches that have any, the rejects."""

    def add(self, num_read: int, rows: PartedRows) -> None:
        """Count a batch."""
        self.num_read += num_read
        self.num_unrated += rows.num_unrated
        self.num_other_events += rows.num_other_events
        self.events.update(rows.events)
        self.items.append(rows.good["item"].drop_nulls().unique())
        if len(rows.bad):
            self.bad.append(rows.bad)

    def counts(self) -> Result:
        """As a result has them."""
        return {
            "read": self.num_read,
            "unrated": self.num_unrated,
            "other_events": self.num_other_events,
            "events": dict(self.events),
            "rejected": sum(map(len, self.bad)),
        }


@dataclass(frozen=True)
class _ScanUnit:
    """Checks a unit of the log: pieces, each of which is ``[part, first row, number of rows]``."""

    parts: tuple[pl.LazyFrame, ...]
    columns: CheckedColumns
    has_places: bool
    """Whether good rows keep their file and line."""
    is_kept: bool
    """Whether the store will keep the rows, so that their checksum is needed."""
    num_buckets: int
    folder: Path

    def rows_path(self, number: int) -> Path:
        """The good rows of a unit."""
        return self.folder / f"rows-{number}.arrow"

    def items_path(self, number: int) -> Path:
        """Their distinct items."""
        return self.folder / f"items-{number}.arrow"

    def rejects_path(self, number: int) -> Path:
        """The bad rows of a unit, if it has any."""
        return self.folder / f"rejects-{number}.parquet"

    def bucket_file(self, number: int, result: Result) -> BucketFile:
        """The good rows of a unit, by bucket."""
        return BucketFile(self.rows_path(number), tuple(result["buckets"]), result["sha256"])

    def __call__(self, number: int, unit: Sequence[Sequence[int]]) -> Result:
        tally = _Tally()
        with (
            written_atomically(self.rows_path(number)) as partial,
            BucketWriter(partial, self.num_buckets) as writer,
        ):
            for batch in self._batches(unit):
                rows = self.columns.parted(batch, has_places=self.has_places)
                tally.add(len(batch), rows)
                writer.write(rows.good)
            if not writer.buckets:
                partial.touch()
        distinct = pl.concat(tally.items).unique().sort()
        write_table(self.items_path(number), distinct.to_frame("item"))
        if tally.bad:
            with written_atomically(self.rejects_path(number)) as partial:
                pl.concat(tally.bad).write_parquet(partial)
        return {
            **tally.counts(),
            "buckets": writer.buckets,
            "sha256": sha256(self.rows_path(number)) if self.is_kept else "",
        }

    def _batches(self, unit: Sequence[Sequence[int]]) -> Iterator[pl.DataFrame]:
        frames = [
            self.parts[part].slice(first, num_rows).collect(engine="streaming")
            for part, first, num_rows in unit
        ]
        rows = pl.concat(frames) if len(frames) > 1 else frames[0]
        del frames
        yield from rows.iter_slices(BATCH_ROWS)


def _total(results: Sequence[Result], name: str) -> int:
    return sum(result[name] for result in results)


def _events(results: Sequence[Result]) -> Counter[str]:
    """The rows of each event."""
    return sum((Counter(result["events"]) for result in results), Counter[str]())


def most_common(events: Counter[str]) -> dict[str, int]:
    """The most frequent events, and the rows of each."""
    return dict(events.most_common(MAX_EVENTS))


def _require_events(config: DataConfig, events: Counter[str]) -> None:
    """Raise ``InputError`` where no row is of an event that ``data.events`` names."""
    absent = [event for event in config.events if event not in events]
    found = ", ".join(event for event, _ in events.most_common(8)) or "none"
    require(
        not absent,
        f"data.events names {', '.join(absent)}, and no row of the log is one; its events: {found}",
    )


def count_rows(source: Source) -> list[int]:
    """The rows of each of the source's frames."""
    frames = source.frames
    counts = [frame.select(pl.len()) for frame in frames]
    return [count.item() for count in pl.collect_all(counts, engine="streaming")]


def _units(part_rows: Sequence[int], unit_rows: int) -> list[list[list[int]]]:
    """Pieces of parts, in order, such that each unit has about ``unit_rows`` rows.

    A large part is cut, and small ones are put together.
    """
    units: list[list[list[int]]] = [[]]
    size = 0
    for part, num_rows in enumerate(part_rows):
        first = 0
        while first < num_rows:
            if size >= unit_rows or len(units[-1]) == UNIT_PIECES:
                units.append([])
                size = 0
            taken = min(num_rows - first, unit_rows - size)
            units[-1].append([part, first, taken])
            size, first = size + taken, first + taken
    return units


def _distinct(first: pl.Series, paths: Sequence[Path]) -> pl.Series:
    """All distinct items of the units, and of ``first``, ascending."""
    items = [first]
    num_merged = len(first)
    for path in paths:
        items.append(read_table(path)["item"])
        # Merged whenever they have doubled: every item is merged a few times in all.
        if sum(map(len, items)) > 2 * num_merged + BATCH_ROWS:
            items = [pl.concat(items).unique()]
            num_merged = len(items[0])
    return pl.concat(items).unique().sort()


def _join(paths: Sequence[Path], target: Path) -> None:
    """Write the rows of Parquet files into one, a file at a time."""
    with (
        written_atomically(target) as partial,
        pq.ParquetWriter(partial, _arrow_schema(REJECT_SCHEMA)) as writer,
    ):
        for path in paths:
            writer.write_table(pl.read_parquet(path, glob=False).to_arrow().cast(writer.schema))


def num_buckets(num_bytes: int) -> int:
    """A power of two, such that a bucket is of about ``BUCKET_BYTES`` or less."""
    number = 1
    while number < MAX_BUCKETS and number * BUCKET_BYTES < num_bytes:
        number *= 2
    return number


def source_bytes(source: Source) -> int:
    """Bytes of a log's files."""
    return sum(f.stat().st_size for f in (*source.files, *source.generated) if f.exists())


def _arrow_schema(schema: pl.Schema) -> pa.Schema:
    return schema.to_frame().to_arrow(compat_level=pl.CompatLevel.oldest()).schema
