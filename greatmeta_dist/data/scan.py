"""The one pass over the whole log: every row is checked, and good rows go to buckets by user.

The log is cut into units of rows, in order. Each writes its good rows by bucket, and its bad rows
with a reason.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.buckets import BucketFile, BucketWriter, read_bucket
from greatmeta_dist.data.kept_log import KeptRows
from greatmeta_dist.data.phases import Phases
from greatmeta_dist.data.rejects import REJECT_SCHEMA, Rejects
from greatmeta_dist.data.sources import Source
from greatmeta_dist.data.tables import read_table, write_table
from greatmeta_dist.data.units import Result
from greatmeta_dist.data.values import Value, id_value, number_value, time_unit, time_value
from greatmeta_dist.errors import require
from greatmeta_dist.files import sha256, written_atomically

CHECK = "check the log"
UNIT_ROWS = 1 << 20
"""Rows of a unit, about: it is read as a whole."""
UNIT_PIECES = 256
"""Most small files of a unit."""
BATCH_ROWS = 1 << 19
"""Rows that are checked at a time."""
BUCKET_BYTES = 1 << 24
"""Bytes of a log's files that make one bucket, about; a bucket is read into memory as a whole."""
MAX_BUCKETS = 128
MAX_RATING = 1e15
"""Beyond this a rating is a mistake, and squares of it would lose all digits of the others."""
NUM_SAMPLED = 1000
"""First rows that tell the unit of times."""


@dataclass(frozen=True)
class ScannedLog:
    """A log's good rows on disk, in buckets by user."""

    files: tuple[BucketFile, ...]
    """In the order of the log."""
    num_buckets: int
    num_read: int
    num_unrated: int
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
) -> ScannedLog:
    """Check every row of the log, and write the good ones by bucket.

    What does not belong to a unit is written into ``folder``: the distinct items, and the bad rows,
    which become ``rejects.on_disk``. ``part_rows`` are the rows of the source's frames, where they
    are known. ``earlier`` are good rows of an earlier store, which come first. Raises
    ``InputError`` where the log has no row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    phases = phases or Phases(folder)
    part_rows = part_rows or count_rows(source)
    require(sum(part_rows) > 0, "the log holds no interaction below its header")
    columns = _CheckedColumns.of(source, config)
    number = num_buckets(source_bytes(source))
    files: list[BucketFile] = []
    earlier_items = pl.Series("item", [], columns.id_types["item"])
    if earlier is not None:
        number = num_buckets(source_bytes(source) + earlier.index.num_bytes)
        number = max(number, earlier.index.num_buckets)
        columns = columns.beside(earlier.id_types)
        files = earlier.take_over(phases, number, columns.id_types)
        earlier_items = earlier.items_as(columns.id_types["item"])
    units = _units(part_rows)
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
    num_read = sum(result["read"] for result in results)
    numbers = range(len(units))
    items = _distinct(earlier_items, [scan.items_path(k) for k in numbers])
    write_table(folder / "items.arrow", items.to_frame("item"))
    num_rejected = sum(result["rejected"] for result in results)
    if num_rejected:
        rejects.on_disk = folder / "rejected.parquet"
        _join([scan.rejects_path(k) for k in numbers if results[k]["rejected"]], rejects.on_disk)
    return ScannedLog(
        (*files, *(scan.bucket_file(k, results[k]) for k in numbers)),
        scan.num_buckets,
        num_read,
        sum(result["unrated"] for result in results),
        folder / "items.arrow",
        columns.id_types["user"],
        items.dtype,
        columns.time_unit,
    )


@dataclass(frozen=True)
class _ScanUnit:
    """Checks a unit of the log: pieces, each of which is ``[part, first row, number of rows]``."""

    parts: tuple[pl.LazyFrame, ...]
    columns: "_CheckedColumns"
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
        num_read = num_unrated = 0
        items, bad_rows = [], []
        with (
            written_atomically(self.rows_path(number)) as partial,
            BucketWriter(partial, self.num_buckets) as writer,
        ):
            for batch in self._batches(unit):
                num_read += len(batch)
                good, bad, is_unrated = self.columns.parted(batch, has_places=self.has_places)
                num_unrated += is_unrated
                if len(bad):
                    bad_rows.append(bad)
                items.append(good["item"].unique())
                writer.write(good)
            if not writer.buckets:
                partial.touch()
        distinct = pl.concat(items).unique().sort()
        write_table(self.items_path(number), distinct.to_frame("item"))
        if bad_rows:
            with written_atomically(self.rejects_path(number)) as partial:
                pl.concat(bad_rows).write_parquet(partial)
        return {
            "read": num_read,
            "unrated": num_unrated,
            "rejected": sum(map(len, bad_rows)),
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


def count_rows(source: Source) -> list[int]:
    """The rows of each of the source's frames."""
    frames = source.frames
    counts = [frame.select(pl.len()) for frame in frames]
    return [count.item() for count in pl.collect_all(counts, engine="streaming")]


def _units(part_rows: Sequence[int]) -> list[list[list[int]]]:
    """Pieces of parts, in order, such that each unit has about ``UNIT_ROWS`` rows.

    A large part is cut, and small ones are put together.
    """
    units: list[list[list[int]]] = [[]]
    size = 0
    for part, num_rows in enumerate(part_rows):
        first = 0
        while first < num_rows:
            if size >= UNIT_ROWS or len(units[-1]) == UNIT_PIECES:
                units.append([])
                size = 0
            taken = min(num_rows - first, UNIT_ROWS - size)
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


@dataclass(frozen=True)
class _CheckedColumns:
    """The columns of a log, and the checks that a row must pass, in order."""

    values: dict[str, Value]
    """``user``, ``item``, and of ``rating`` and ``timestamp`` those that the log has."""
    checks: list[tuple[pl.Expr, str, pl.Expr]]
    """When a row fails, the column at fault, and the reason. Of typed columns, and of ``NAME is
    missing`` and ``NAME is bad`` of each."""
    is_unrated: pl.Expr
    id_types: dict[str, pl.DataType]
    """Of ``user`` and ``item``: Int64 or String."""
    time_unit: str | None

    @classmethod
    def of(cls, source: Source, config: DataConfig) -> "_CheckedColumns":
        log = source.frames[0]
        schema = log.collect_schema()
        missing = config.missing_values
        values = {name: id_value(name, schema[name], missing) for name in ("user", "item")}
        if config.has_ratings:
            values["rating"] = number_value("rating", schema["rating"], missing)
        unit = None
        if source.has_timestamp:
            unit = time_unit(log.select("timestamp").head(NUM_SAMPLED).collect()["timestamp"])
            values["timestamp"] = time_value("timestamp", schema["timestamp"], missing, unit=unit)
        is_unrated = pl.lit(False)
        if config.unrated_value is not None and "rating" in values:
            is_unrated = (pl.col("rating") == config.unrated_value).fill_null(False)
        checks = [
            (pl.col("reason").is_not_null(), "", pl.col("reason")),
            *_id_checks("user"),
            *_id_checks("item"),
            *(_rating_checks(config, is_unrated) if "rating" in values else ()),
            *(_time_checks(config) if "timestamp" in values else ()),
        ]
        ids = {n: schema.to_frame().select(values[n].value)[n].dtype for n in ("user", "item")}
        return cls(values, checks, is_unrated, ids, unit)

    def beside(self, earlier: dict[str, pl.DataType]) -> "_CheckedColumns":
        """The same with ids as text where an earlier log has them in another type."""
        types = {
            name: kind if earlier[name] == kind else pl.String()
            for name, kind in self.id_types.items()
        }
        return replace(self, id_types=types)

    def parted(
        self, batch: pl.DataFrame, *, has_places: bool
    ) -> tuple[pl.DataFrame, pl.DataFrame, int]:
        """A batch's good rows, typed; its bad ones, as rejects; and the number of unrated ones.

        With ``has_places`` good rows have their ``file`` and ``line_in_file``.
        """
        checked, bad = self.check(batch), REJECT_SCHEMA.to_frame()
        if checked["is_bad"].any():
            bad = self.rejected(batch, checked)
            checked = checked.filter(~pl.col("is_bad"))
        num_unrated = int(checked["is_unrated"].sum())
        if num_unrated:
            checked = checked.filter(~pl.col("is_unrated"))
        file, line = pl.col("file"), pl.col("line").alias("line_in_file")
        places = [file, line] if has_places else []
        ids = [pl.col(name).cast(kind) for name, kind in self.id_types.items()]
        return checked.select(*ids, "rating", "timestamp", *places), bad, num_unrated

    def check(self, batch: pl.DataFrame) -> pl.DataFrame:
        """Typed columns of a batch; what is wrong with each; ``is_bad``, ``is_unrated``."""
        columns = {
            alias: column
            for name, value in self.values.items()
            for alias, column in _evaluate(batch, name, value).items()
        }
        # Where a log has no ratings, every row counts one.
        nothing = {"rating": pl.lit(1.0), "timestamp": pl.lit(None, pl.Float64)}
        absent = [value.alias(name) for name, value in nothing.items() if name not in columns]
        typed = batch.select("reason", "line", "file").with_columns(*columns.values(), *absent)
        return typed.with_columns(
            is_unrated=self.is_unrated,
            is_bad=pl.any_horizontal(is_bad for is_bad, _, _ in self.checks),
        )

    def rejected(self, batch: pl.DataFrame, checked: pl.DataFrame) -> pl.DataFrame:
        """The bad rows as ``REJECT_SCHEMA`` has them, with the first check that each fails."""
        texts = {f"text of {name}": value.text for name, value in self.values.items()}
        is_bad = checked["is_bad"]
        bad = batch.filter(is_bad).select("text", **texts)
        rows = bad.hstack(checked.filter(is_bad))
        column: Any = pl
        value, reason = column, column
        for fails, name, why in self.checks:
            column = column.when(fails).then(pl.lit(name))
            value = value.when(fails).then(pl.col(f"text of {name}" if name else "text"))
            reason = reason.when(fails).then(why)
        return rows.select("file", "line", column=column, value=value, reason=reason).cast(
            REJECT_SCHEMA
        )


def _evaluate(batch: pl.DataFrame, name: str, value: Value) -> dict[str, pl.Series]:
    """A column's values, and whether each ``is missing`` and ``is bad``.

    Where most rows are plain numbers in text, the others alone are looked at closely.
    """
    missing, bad = f"{name} is missing", f"{name} is bad"
    closely = {name: value.value, missing: value.is_missing, bad: value.is_bad}
    if value.if_plain is None:
        return batch.select(**closely).to_dict()
    plain = batch.select(value.if_plain.alias(name)).to_series()
    rows = plain.is_null().arg_true()
    no = pl.repeat(False, len(batch), eager=True)
    columns = {name: plain, missing: no.alias(missing), bad: no.alias(bad)}
    if not len(rows):
        return columns
    others = batch[rows].select(**closely)
    return {alias: column.scatter(rows, others[alias]) for alias, column in columns.items()}


def _arrow_schema(schema: pl.Schema) -> pa.Schema:
    return schema.to_frame().to_arrow(compat_level=pl.CompatLevel.oldest()).schema


def _id_checks(name: str) -> list[tuple[pl.Expr, str, pl.Expr]]:
    reason = f"{name} is no whole number, and the column holds numbers"
    return [
        (pl.col(f"{name} is missing"), name, pl.lit(f"no {name}")),
        (pl.col(f"{name} is bad"), name, pl.lit(reason)),
    ]


def _rating_checks(config: DataConfig, is_unrated: pl.Expr) -> list[tuple[pl.Expr, str, pl.Expr]]:
    rating = pl.col("rating")
    is_none = pl.col("rating is missing") | pl.col("rating is bad")
    is_huge = (rating.abs() > MAX_RATING).fill_null(False)
    checks = [
        (is_none, "rating", pl.lit("rating is not a number")),
        (is_huge, "rating", pl.lit(f"rating is beyond {MAX_RATING:g}")),
    ]
    if config.rating_range is not None:
        low, high = config.rating_range
        is_out = (~rating.is_between(low, high)).fill_null(False) & ~is_unrated
        checks.append((is_out, "rating", pl.lit(f"rating is outside {low:g} to {high:g}")))
    return checks


def _time_checks(config: DataConfig) -> list[tuple[pl.Expr, str, pl.Expr]]:
    """A time that is not understood is a fault; a missing one only where order is by time."""
    reason = pl.lit("timestamp is no time (a number, or ISO 8601) after 1900")
    checks = [(pl.col("timestamp is bad"), "timestamp", reason)]
    if config.needs_times is not None:
        why = pl.lit(f"no time, and {config.needs_times}")
        checks.append((pl.col("timestamp is missing"), "timestamp", why))
    return checks


def source_bytes(source: Source) -> int:
    """Bytes of a log's files."""
    return sum(f.stat().st_size for f in (*source.files, *source.generated) if f.exists())


def num_buckets(num_bytes: int) -> int:
    """A power of two, such that a bucket is of about ``BUCKET_BYTES`` or less."""
    number = 1
    while number < MAX_BUCKETS and number * BUCKET_BYTES < num_bytes:
        number *= 2
    return number
