"""The one pass over the whole log: every row is checked, and good rows go to buckets by user.

The log comes in batches, of which a few are in memory at a time. Bad rows go to the rejects with a
reason.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.buckets import BucketWriter, read_bucket
from greatmeta_dist.data.rejects import REJECT_SCHEMA, Rejects
from greatmeta_dist.data.sources import Source
from greatmeta_dist.data.values import (
    MAX_TIME_S,
    Value,
    has_real_times,
    id_value,
    number_value,
    time_unit,
    time_value,
)
from greatmeta_dist.errors import require

BATCH_ROWS = 1 << 19
"""Rows that are checked at a time."""
BUCKET_BYTES = 1 << 24
"""Bytes of a log's files that make one bucket, about; a bucket is read into memory as a whole."""
MAX_BUCKETS = 128
MAX_RATING = 1e15
"""Beyond this a rating is a mistake, and squares of it would lose all digits of the others."""
MAX_EVENTS = 20
"""Of the events that a log has, the most frequent ones are reported."""
NUM_SAMPLED = 1000
"""First rows that tell the unit of times."""


@dataclass(frozen=True)
class ScannedLog:
    """A log's good rows on disk, in buckets by user."""

    folder: Path
    num_buckets: int
    num_read: int
    num_unrated: int
    num_other_events: int
    events: dict[str, int]
    """With ``data.events``: rows of each event, the most frequent first."""
    items: pl.Series
    """The distinct items, as they stand in the buckets: integers or text; in no certain order."""
    user_type: pl.DataType
    time_unit: str | None
    """The unit of times that are numbers; None where the log has none."""

    def bucket(self, number: int) -> pl.DataFrame:
        """``user item rating timestamp line`` of a bucket's rows.

        ``line`` is the place in the whole log, of which a later row has a greater one. With
        ``data.repeats=reject`` they have their ``file`` and ``line in file``, too.
        """
        rows = read_bucket(self.folder, number)
        if rows is not None:
            return rows
        number_types = {"rating": pl.Float64(), "timestamp": pl.Float64(), "line": pl.Int64()}
        return pl.DataFrame(
            schema={"user": self.user_type, "item": self.items.dtype, **number_types}
        )


def scan_log(source: Source, config: DataConfig, rejects: Rejects, folder: Path) -> ScannedLog:
    """Check every row of the log, and write the good ones into ``folder`` by bucket.

    The bad ones are written beside it, and become ``rejects.on_disk``. Raises ``InputError`` where
    the log has no row.
    """
    num_buckets = _num_buckets(source)
    columns = _CheckedColumns.of(source, config)
    rejects.on_disk = folder.with_name("rejected.parquet")
    num_read = num_unrated = num_other_events = 0
    events: Counter[str] = Counter()
    items = _Distinct()
    user_type: pl.DataType = pl.Int64()
    extra = ["file", "line in file"] if config.repeats_rule == "reject" else []
    with (
        BucketWriter(folder, num_buckets) as buckets,
        pq.ParquetWriter(rejects.on_disk, _arrow_schema(REJECT_SCHEMA)) as rejected,
    ):
        for batch in _batches(source.interactions):
            num_read += len(batch)
            checked = columns.check(batch)
            if checked["is_bad"].any():
                bad = columns.rejected(batch, checked)
                rejected.write_table(bad.to_arrow().cast(rejected.schema))
                checked = checked.filter(~pl.col("is_bad"))
            if "event" in checked.columns:
                events.update(dict(checked["event"].drop_nulls().value_counts().iter_rows()))
                num_other_events += int(checked["is_other_event"].sum())
                checked = checked.filter(~pl.col("is_other_event"))
            if checked["is_unrated"].any():
                num_unrated += int(checked["is_unrated"].sum())
                checked = checked.filter(~pl.col("is_unrated"))
            good = checked.select("user", "item", "rating", "timestamp", "line", *extra)
            user_type = good.schema["user"]
            items.add(good["item"])
            buckets.write(good)
    require(num_read > 0, "the log holds no interaction below its header")
    frequent = dict(events.most_common(MAX_EVENTS))
    _require_events(config, events)
    return ScannedLog(
        folder,
        num_buckets,
        num_read,
        num_unrated,
        num_other_events,
        frequent,
        items.values(),
        user_type,
        columns.time_unit,
    )


def _require_events(config: DataConfig, events: Counter[str]) -> None:
    """Raise ``InputError`` where no row is of an event that ``data.events`` names."""
    absent = [event for event in config.events if event not in events]
    found = ", ".join(event for event, _ in events.most_common(8)) or "none"
    require(
        not absent,
        f"data.events names {', '.join(absent)}, and no row of the log is one; its events: {found}",
    )


def _batches(log: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """The log in order, a limited number of rows at a time."""
    for batch in log.collect_batches(
        chunk_size=BATCH_ROWS, maintain_order=True, engine="streaming"
    ):
        yield from batch.iter_slices(2 * BATCH_ROWS)


@dataclass
class _Distinct:
    """The distinct values of a column that comes in batches."""

    found: list[pl.Series] = field(default_factory=list)
    """Values of which several may be equal; the first entry's are distinct."""
    num_after_merge: int = 0

    def add(self, values: pl.Series) -> None:
        self.found.append(values.unique())
        # Merged whenever they have doubled: every value is merged a few times in all.
        if sum(map(len, self.found)) > 2 * self.num_after_merge + BATCH_ROWS:
            self.values()

    def values(self) -> pl.Series:
        """All distinct values so far, in no certain order; at least one batch must have come."""
        self.found = [pl.concat(self.found).unique()]
        self.num_after_merge = len(self.found[0])
        return self.found[0]


@dataclass(frozen=True)
class _CheckedColumns:
    """The columns of a log, and the checks that a row must pass, in order."""

    values: dict[str, Value]
    """``user``, ``item``, and of ``rating`` and ``timestamp`` those that the log has."""
    checks: list[tuple[pl.Expr, str, pl.Expr]]
    """When a row fails, the column at fault, and the reason. Of typed columns, and of ``NAME is
    missing`` and ``NAME is bad`` of each."""
    is_unrated: pl.Expr
    time_unit: str | None
    events: dict[str, float]
    place: str
    """The column of the place in the whole log."""

    @classmethod
    def of(cls, source: Source, config: DataConfig) -> "_CheckedColumns":
        log = source.interactions
        schema = log.collect_schema()
        missing = config.missing_values
        values = {name: id_value(name, schema[name], missing) for name in ("user", "item")}
        if config.events:
            values["event"] = id_value("event", schema["event"], missing)
        if config.has_ratings:
            values["rating"] = number_value("rating", schema["rating"], missing)
        unit = None
        if source.has_timestamp:
            sample = log.select("timestamp").head(NUM_SAMPLED).collect()["timestamp"]
            unit = time_unit(sample)
            values["timestamp"] = time_value(
                "timestamp",
                schema["timestamp"],
                missing,
                unit=unit,
                zero_is_missing=has_real_times(sample, unit),
            )
        is_unrated = pl.lit(False)
        if config.unrated_value is not None and "rating" in values:
            is_unrated = (pl.col("rating") == config.unrated_value).fill_null(False)
        checks = [
            *_id_checks("user"),
            *_id_checks("item"),
            *(_rating_checks(config, is_unrated) if "rating" in values else ()),
            *(_time_checks(config) if "timestamp" in values else ()),
        ]
        first = [(pl.col("reason").is_not_null(), "", pl.col("reason"))]
        if config.events:
            first += _id_checks("event")
            # A row that is left out need not be right.
            is_asked = ~pl.col("is_other_event")
            checks = [(fails & is_asked, name, why) for fails, name, why in checks]
            is_unrated &= is_asked
        place = "place" if "place" in schema else "line"
        return cls(values, [*first, *checks], is_unrated, unit, config.events, place)

    def check(self, batch: pl.DataFrame) -> pl.DataFrame:
        """Typed columns of a batch; what is wrong with each; ``is_bad``, ``is_unrated``.

        ``line`` is the place in the whole log. With ``data.events`` there are ``event`` and
        ``is_other_event`` besides, and ratings are weighed.
        """
        columns = {
            alias: column
            for name, value in self.values.items()
            for alias, column in _evaluate(batch, name, value).items()
        }
        # Where a log has no ratings, every row counts one.
        nothing = {"rating": pl.lit(1.0), "timestamp": pl.lit(None, pl.Float64)}
        absent = [value.alias(name) for name, value in nothing.items() if name not in columns]
        lines = {"line": pl.col(self.place), "line in file": pl.col("line")}
        typed = batch.select("reason", "file", **lines).with_columns(*columns.values(), *absent)
        if self.events:
            typed = self._with_events(typed)
        weighed = [pl.col("rating") * pl.col("weight")] if self.events else []
        return typed.with_columns(
            *weighed,
            is_unrated=self.is_unrated,
            is_bad=pl.any_horizontal(is_bad for is_bad, _, _ in self.checks),
        )

    def _with_events(self, typed: pl.DataFrame) -> pl.DataFrame:
        """With each row's ``event`` as text, its ``weight``, and ``is_other_event``."""
        event = pl.col("event").cast(pl.String)
        weight = event.replace_strict(
            list(self.events), list(self.events.values()), default=None, return_dtype=pl.Float64
        )
        is_well_formed = pl.col("reason").is_null() & event.is_not_null()
        return typed.with_columns(
            event=pl.when(is_well_formed).then(event),
            weight=weight,
            is_other_event=is_well_formed & weight.is_null(),
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
        line = pl.col("line in file")
        return rows.select("file", line=line, column=column, value=value, reason=reason).cast(
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
    is_late = (pl.col("timestamp") > MAX_TIME_S).fill_null(False)
    late = pl.lit("timestamp is after 2200, as fillers for a missing time are")
    checks = [
        (pl.col("timestamp is bad"), "timestamp", reason),
        (is_late, "timestamp", late),
    ]
    if config.query_by == "time":
        why = pl.lit("no time, and data.query_by=time")
        checks.append((pl.col("timestamp is missing"), "timestamp", why))
    return checks


def _num_buckets(source: Source) -> int:
    """A power of two, such that a bucket is of about ``BUCKET_BYTES`` or less."""
    num_bytes = sum(f.stat().st_size for f in (*source.files, *source.generated) if f.exists())
    num_buckets = 1
    while num_buckets < MAX_BUCKETS and num_buckets * BUCKET_BYTES < num_bytes:
        num_buckets *= 2
    return num_buckets
