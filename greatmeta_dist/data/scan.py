"""The one pass over the whole log: every row is checked, and good rows go to buckets by user.

Streaming: some chunks of the log are in memory at a time, and each bucket is a folder of Parquet
files, to be read whole later. Bad rows go to the rejects with a reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.hashing import draw_bits, hash_tokens, mix
from greatmeta_dist.data.rejects import REJECT_SCHEMA, Rejects
from greatmeta_dist.data.sources import Source
from greatmeta_dist.data.values import Value, id_value, number_value, time_unit, time_value
from greatmeta_dist.errors import require

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

    folder: Path
    num_buckets: int
    num_read: int
    num_unrated: int
    items: pl.Series
    """The distinct items, as they stand in the buckets: integers or text; in no certain order."""
    time_unit: str | None
    """The unit of times that are numbers; None where the log has none."""

    def bucket(self, number: int) -> pl.DataFrame:
        """``user``, ``item``, ``rating``, ``timestamp``, ``line`` of a bucket's rows; unordered."""
        folder = self.folder / f"bucket={number}"
        if not folder.exists():
            return pl.DataFrame(schema=self._schema())
        return pl.read_parquet(sorted(folder.glob("*.parquet")), glob=False)

    def _schema(self) -> pl.Schema:
        return pl.Schema(
            {
                "user": pl.Int64,
                "item": self.items.dtype,
                "rating": pl.Float64,
                "timestamp": pl.Float64,
                "line": pl.Int64,
            }
        )


def scan_log(source: Source, config: DataConfig, rejects: Rejects, folder: Path) -> ScannedLog:
    """Check every row of the log, and write the good ones into ``folder`` by bucket.

    The bad ones are written beside it, and become ``rejects.on_disk``. Raises ``InputError`` where
    the log has no row.
    """
    num_buckets = _num_buckets(source)
    checked = _CheckedColumns.of(source, config)
    log = source.interactions.with_columns(**checked.columns())
    kept = log.filter(~pl.col("is_bad") & ~pl.col("is_unrated"))
    good = kept.select(
        "user", "item", "rating", "timestamp", "line",
        bucket=pl.col("user").map_batches(
            lambda user: _bucket_of(user, num_buckets),
            return_dtype=pl.UInt8,
            is_elementwise=True,
        ),
    ).sink_parquet(
        pl.PartitionBy(folder, key="bucket", include_key=False), mkdir=True, lazy=True,
        compression="lz4", statistics=False,
    )  # fmt: skip
    rejects.on_disk = folder.with_name("rejected.parquet")
    bad = log.filter("is_bad").select(checked.rejected())
    is_unrated = ~pl.col("is_bad") & pl.col("is_unrated")
    counts = log.select(read=pl.len(), unrated=is_unrated.sum())
    items = kept.select("item").unique()
    # Together, so that the log is read and checked once for all of them.
    *_, counted, distinct = pl.collect_all(
        [good, bad.sink_parquet(rejects.on_disk, lazy=True), counts, items], engine="streaming"
    )
    num_read = int(counted["read"][0])
    require(num_read > 0, "the log holds no interaction below its header")
    return ScannedLog(
        folder,
        num_buckets,
        num_read,
        int(counted["unrated"][0]),
        distinct["item"],
        checked.time_unit,
    )


@dataclass(frozen=True)
class _CheckedColumns:
    """Typed columns of a log, and the checks that a row must pass, in order."""

    user: Value
    item: Value
    rating: Value | None
    """None where the log has no ratings, or none are asked for."""
    timestamp: Value | None
    checks: list[tuple[pl.Expr, str, pl.Expr]]
    """When a row fails, the column at fault, and the reason."""
    is_unrated: pl.Expr
    time_unit: str | None

    @classmethod
    def of(cls, source: Source, config: DataConfig) -> "_CheckedColumns":
        log = source.interactions
        schema = log.collect_schema()
        missing = config.missing_values
        user, item = (id_value(name, schema[name], missing) for name in ("user", "item"))
        has_rating = config.has_ratings
        rating = number_value("rating", schema["rating"], missing) if has_rating else None
        timestamp, unit = None, None
        if source.has_timestamp:
            unit = time_unit(log.select("timestamp").head(NUM_SAMPLED).collect()["timestamp"])
            timestamp = time_value("timestamp", schema["timestamp"], missing, unit=unit)
        is_unrated = pl.lit(False)
        if config.unrated_value is not None and rating is not None:
            is_unrated = (rating.value == config.unrated_value).fill_null(False)
        checks = [
            *_id_checks(user, "user"),
            *_id_checks(item, "item"),
            *_rating_checks(rating, config, is_unrated),
            *_time_checks(timestamp, config),
        ]
        if "reason" in schema:
            checks.insert(0, (pl.col("reason").is_not_null(), "", pl.col("reason")))
        return cls(user, item, rating, timestamp, checks, is_unrated, unit)

    def columns(self) -> dict[str, pl.Expr]:
        """The typed columns, beside ``is_bad`` and ``is_unrated``; originals are kept as text."""
        nothing = pl.lit(None, pl.Float64)
        return {
            "user": self.user.value,
            "item": self.item.value,
            "rating": pl.lit(1.0) if self.rating is None else self.rating.value,
            "timestamp": nothing if self.timestamp is None else self.timestamp.value,
            "is_unrated": self.is_unrated,
            "is_bad": pl.any_horizontal(is_bad for is_bad, _, _ in self.checks),
            **{f"text_{name}": text for name, text in self._texts().items()},
            **{f"fails_{k}": is_bad for k, (is_bad, _, _) in enumerate(self.checks)},
        }

    def rejected(self) -> list[pl.Expr]:
        """``REJECT_SCHEMA``'s columns of rows that fail: the first check that each fails."""

        def of_first_failure(outcome: Callable[[str, pl.Expr], pl.Expr]) -> pl.Expr:
            chain: Any = pl
            for k, (_, column, reason) in enumerate(self.checks):
                chain = chain.when(pl.col(f"fails_{k}")).then(outcome(column, reason))
            return chain.otherwise(None)

        columns = {
            "file": pl.col("file"),
            "line": pl.col("line"),
            "column": of_first_failure(lambda column, reason: pl.lit(column)),
            "value": of_first_failure(
                lambda column, reason: pl.col(f"text_{column}" if column else "text")
            ),
            "reason": of_first_failure(lambda column, reason: reason),
        }
        return [columns[name].cast(kind).alias(name) for name, kind in REJECT_SCHEMA.items()]

    def _texts(self) -> dict[str, pl.Expr]:
        values = {
            "user": self.user,
            "item": self.item,
            "rating": self.rating,
            "timestamp": self.timestamp,
        }
        return {name: value.text for name, value in values.items() if value is not None}


def _id_checks(value: Value, name: str) -> list[tuple[pl.Expr, str, pl.Expr]]:
    return [
        (value.is_missing, name, pl.lit(f"no {name}")),
        (value.is_bad, name, pl.lit(f"{name} is no whole number, and the column holds numbers")),
    ]


def _rating_checks(
    value: Value | None, config: DataConfig, is_unrated: pl.Expr
) -> list[tuple[pl.Expr, str, pl.Expr]]:
    if value is None:
        return []
    checks = [
        (value.is_missing | value.is_bad, "rating", pl.lit("rating is not a number")),
        (
            (value.value.abs() > MAX_RATING).fill_null(False),
            "rating",
            pl.lit(f"rating is beyond {MAX_RATING:g}"),
        ),
    ]
    if config.rating_range is not None:
        low, high = config.rating_range
        is_out = (~value.value.is_between(low, high)).fill_null(False) & ~is_unrated
        checks.append((is_out, "rating", pl.lit(f"rating is outside {low:g} to {high:g}")))
    return checks


def _time_checks(value: Value | None, config: DataConfig) -> list[tuple[pl.Expr, str, pl.Expr]]:
    """A time that is not understood is a fault; a missing one only where order is by time."""
    if value is None:
        return []
    reason = pl.lit("timestamp is no time (a number, or ISO 8601) after 1900")
    checks = [(value.is_bad, "timestamp", reason)]
    if config.query_by == "time":
        checks.append((value.is_missing, "timestamp", pl.lit("no time, and data.query_by=time")))
    return checks


def _bucket_of(user: pl.Series, num_buckets: int) -> pl.Series:
    """Which bucket each user is in, from its own hash, so that no library's version matters."""
    if user.dtype == pl.String:
        hashes = draw_bits(hash_tokens(user), 0, "bucket")
    else:
        hashes = mix(user.to_numpy().view(np.uint64))
    return pl.Series((hashes >> np.uint64(40)).astype(np.int64) % num_buckets).cast(pl.UInt8)


def _num_buckets(source: Source) -> int:
    """A power of two, such that a bucket is of about ``BUCKET_BYTES`` or less."""
    num_bytes = sum(f.stat().st_size for f in (*source.files, *source.generated) if f.exists())
    num_buckets = 1
    while num_buckets < MAX_BUCKETS and num_buckets * BUCKET_BYTES < num_bytes:
        num_buckets *= 2
    return num_buckets
