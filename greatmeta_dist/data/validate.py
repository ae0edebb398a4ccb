"""Checks on a source's values: good rows go on typed, bad ones to the rejects with a reason.

One streaming pass checks the log and assigns its good rows to buckets by user, so memory does not
grow with the log.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.sources import Source, Table
from greatmeta_dist.data.text import is_missing
from greatmeta_dist.errors import InputError, require

BUCKET_BYTES = 1 << 28
"""Bytes of a log's files that make one bucket; a bucket is read into memory as a whole."""
MAX_BUCKETS = 128
MAX_RATING = 1e15
"""Beyond this a rating is a mistake, and squares of it would lose all digits of the others."""
REJECTS = "rejects.parquet"
REJECT_SCHEMA = pl.Schema(
    {
        "file": pl.String,
        "line": pl.Int64,
        "column": pl.String,
        "value": pl.String,
        "reason": pl.String,
    }
)
LOG_SCHEMA = pl.Schema(
    {
        "user": pl.String,
        "item": pl.Int32,
        "rating": pl.Float64,
        "timestamp": pl.Float64,
        "line": pl.Int64,
    }
)
"""A checked log: ``item`` is an index into the catalogue, ``rating`` what is predicted."""
FILE_COLUMNS = {
    "": "text",
    "user": "user",
    "item": "item_text",
    "rating": "rating_text",
    "timestamp": "timestamp_text",
}
"""Where a typed log keeps the string that the file has for each column; "" is the whole line."""


@dataclass
class Rejects:
    """Every rejected row: its file, line, the column at fault, the value there, and the reason."""

    frames: list[pl.DataFrame] = field(default_factory=list)
    on_disk: Path | None = None
    """The log's rejects. They stay on disk until they are known to be few, because a log of which
    every row is bad has as many as it has rows."""

    def add(self, bad: pl.DataFrame, column: str) -> None:
        """Reject rows of ``file``, ``line``, ``reason``, ``text`` and ``column``, that at fault."""
        value = pl.coalesce("text", pl.col(column).cast(pl.String))
        rejected = bad.select("file", "line", column=pl.lit(column), value=value, reason="reason")
        self.frames.append(rejected.cast(REJECT_SCHEMA))

    def table(self) -> pl.DataFrame:
        """All rejects in memory, by file and line."""
        return pl.concat([REJECT_SCHEMA.to_frame(), *self.frames]).sort("file", "line")

    def write(self, store: Path) -> None:
        """Write ``rejects.parquet`` into ``store``."""
        if self.on_disk is None:
            self.table().write_parquet(store / REJECTS)
            return
        in_memory = [frame.lazy() for frame in self.frames]
        everything = pl.concat([pl.scan_parquet(self.on_disk, glob=False), *in_memory])
        everything.sink_parquet(store / REJECTS)

    def require_few(self, num_read: int, config: DataConfig, store: Path) -> None:
        """Raise ``InputError`` where they are more than the allowed share of the rows read."""
        number = sum(map(len, self.frames))
        first_rows = [f.row(0, named=True) for f in self.frames if len(f)]
        first = min(first_rows, key=lambda row: (row["file"], row["line"]), default={})
        if self.on_disk is not None:
            log = pl.scan_parquet(self.on_disk, glob=False)
            number += log.select(pl.len()).collect().item()
            first = next(log.head(1).collect().iter_rows(named=True), first)
        if number > config.max_rejected_fraction * num_read:
            raise InputError(
                f"{number} rows were rejected, more than {config.max_rejected_fraction:g} of "
                f"{num_read}; the first: {first['file']}, line {first['line']}: "
                f"{first['reason']}; see {store / REJECTS}, mend the files or raise "
                "data.max_rejected_fraction"
            )

    def take_in(self) -> None:
        """Read the rejects on disk into memory; for when they are known to be few."""
        if self.on_disk is not None:
            self.frames.append(pl.read_parquet(self.on_disk, glob=False))
            self.on_disk = None


def read_entities(table: Table, side: str, rejects: Rejects) -> pl.DataFrame:
    """Check the features of users or of items (``side``); returns ``id``, one row each, features.

    Rows without an id, and all but the first of an id, are rejected. So is a number that is none,
    but its row stays, with null there. Raises ``InputError`` where no row is usable.
    """
    frame = table.frame.collect(engine="streaming")
    reason = (
        pl.when(pl.col("reason").is_not_null())
        .then(pl.col("reason"))
        .when(is_missing(pl.col("id")))
        .then(pl.lit(f"no {side} id"))
        .when(pl.col("id").is_first_distinct().not_())
        .then(pl.lit(f"repeats the {side}; the first is kept"))
    )
    frame = frame.with_columns(reason=reason)
    rejects.add(frame.filter(pl.col("reason").is_not_null()), "id")
    good = frame.filter(pl.col("reason").is_null())
    for name, kind in table.features.items():
        if kind == "float":
            good = _without_bad_numbers(good, name, rejects)
    if not len(good):
        first = frame.row(0, named=True) if len(frame) else {"file": "", "reason": "it is empty"}
        raise InputError(
            f"the {side} features {first['file']} hold no usable row: {first['reason']}"
        )
    return good.drop("file", "line", "reason", "text")


def _without_bad_numbers(frame: pl.DataFrame, name: str, rejects: Rejects) -> pl.DataFrame:
    """The frame with null where a numeric feature is no finite number, which is a reject."""
    number = pl.col(name).cast(pl.Float64, strict=False)
    is_bad = pl.col(name).is_not_null() & ~number.is_finite().fill_null(False)
    bad = frame.filter(is_bad).with_columns(reason=pl.lit(f"{name} is not a number"))
    rejects.add(bad, name)
    return frame.with_columns(pl.when(is_bad).then(None).otherwise(name).alias(name))


def catalogue(source: Source, rejects: Rejects) -> pl.DataFrame:
    """All items: ``item`` (index, Int32), ``id`` and features, from the items' file.

    Where there is no such file, the items of the log, by id. Raises ``InputError`` as
    ``read_entities`` does.
    """
    if source.items is not None:
        items = read_entities(source.items, "item", rejects)
    else:
        token = pl.col("item").str.strip_chars()
        items = (
            source.interactions.filter(pl.col("reason").is_null() & ~is_missing(token))
            .select(id=token)
            .unique()
            .sort("id")
            .collect(engine="streaming")
        )
    return items.with_row_index("item").with_columns(pl.col("item").cast(pl.Int32))


@dataclass(frozen=True)
class CheckedLog:
    """A log's good rows on disk, in buckets by user."""

    folder: Path
    num_buckets: int
    num_read: int
    num_unrated: int

    def bucket(self, number: int, users: pl.DataFrame | None, rejects: Rejects) -> pl.DataFrame:
        """One bucket's rows, as ``LOG_SCHEMA`` says, by file and line.

        Of several rows of a user and item the latest stays and the others are rejected; so are
        rows of users that ``users`` (if any) does not list. A bucket has all rows of its users.
        """
        folder = self.folder / f"bucket={number}"
        if not folder.exists():
            return pl.DataFrame(schema=LOG_SCHEMA)
        # Sorted, because the streaming engine writes rows in no certain order.
        log = pl.read_parquet(sorted(folder.glob("*.parquet")), glob=False).sort("file", "line")
        latest = pl.struct(pl.col("timestamp").fill_null(0), "line")
        is_latest = latest.rank("ordinal", descending=True).over("user", "item") == 1
        which = "latest" if log["timestamp"].count() else "last"
        is_unknown = pl.lit(False)
        if users is not None:
            is_unknown = ~pl.col("user").is_in(users["id"].implode())
        log = log.with_columns(
            text=pl.lit(None, pl.String),
            reason=pl.when(is_unknown)
            .then(pl.lit("the users' file does not list the user"))
            .when(~is_latest)
            .then(pl.lit(f"repeats a user and item; the {which} is kept")),
        )
        rejects.add(log.filter(pl.col("reason").is_not_null()), "user")
        return log.filter(pl.col("reason").is_null()).select(LOG_SCHEMA.names())


def check_log(
    source: Source, items: pl.DataFrame, config: DataConfig, rejects: Rejects, folder: Path
) -> CheckedLog:
    """Check every row of the log in one streaming pass, and write the good ones into ``folder``.

    The bad ones are written beside it, and become ``rejects.on_disk``. Raises ``InputError`` where
    the log has no row.
    """
    log = _typed(source, items, config)
    num_buckets = _num_buckets(source)
    is_good = pl.col("reason").is_null()
    # Polars' own hash, which is vectorised, but may change with its version. Users' tasks do not
    # depend on it, since draws go by ``uniform_hash``; with several buckets, users' shards do.
    good = (
        log.filter(is_good & ~pl.col("is_unrated"))
        .with_columns(rating=_target(config))
        .select(*LOG_SCHEMA.names(), "file", bucket=pl.col("user").hash(0) % num_buckets)
        .sink_parquet(
            pl.PartitionBy(folder, key="bucket", include_key=False), mkdir=True, lazy=True
        )
    )
    rejects.on_disk = folder.with_name("rejected.parquet")
    bad = log.filter(~is_good).select(pl.col(k).cast(v) for k, v in REJECT_SCHEMA.items())
    counts = log.select(read=pl.len(), unrated=(is_good & pl.col("is_unrated")).sum())
    # Together, so that the log is read, split and joined once for all three and not three times;
    # streaming, so that only some chunks of it are in memory at a time.
    *_, counted = pl.collect_all(
        [good, bad.sink_parquet(rejects.on_disk, lazy=True), counts], engine="streaming"
    )
    num_read = int(counted["read"][0])
    require(num_read > 0, "the log holds no interaction below its header")
    return CheckedLog(folder, num_buckets, num_read, int(counted["unrated"][0]))


def _num_buckets(source: Source) -> int:
    """A power of two, such that a bucket is of about ``BUCKET_BYTES`` or less."""
    num_bytes = sum(f.stat().st_size for f in (*source.files, *source.generated) if f.exists())
    num_buckets = 1
    while num_buckets < MAX_BUCKETS and num_buckets * BUCKET_BYTES < num_bytes:
        num_buckets *= 2
    return num_buckets


def _typed(source: Source, items: pl.DataFrame, config: DataConfig) -> pl.LazyFrame:
    """The log with typed columns and the item's index.

    ``is_unrated`` says that a row has no rating. ``reason``, ``column`` and ``value`` say what is
    wrong with a bad row, by the first check that it fails; they are null elsewhere.
    """
    is_unrated = pl.lit(False)
    if config.unrated_value is not None:
        is_unrated = (pl.col("rating") == config.unrated_value).fill_null(False)
    checks = _checks(source, config, is_unrated)

    def of_first_failure(outcome: Callable[[str, pl.Expr], pl.Expr]) -> pl.Expr:
        """``outcome(column, reason)`` of the first check that a row fails."""
        chain: Any = pl
        for is_bad, column, reason in checks:
            chain = chain.when(is_bad).then(outcome(column, reason))
        return chain.otherwise(None)

    def number(column: str) -> pl.Expr:
        return pl.col(column).str.strip_chars().cast(pl.Float64, strict=False)

    return (
        source.interactions.rename({n: f"{n}_text" for n in ("item", "rating", "timestamp")})
        .with_columns(
            pl.col("user", "item_text").str.strip_chars(),
            rating=number("rating_text"),
            timestamp=number("timestamp_text"),
        )
        .join(items.lazy().select("item", "id"), left_on="item_text", right_on="id", how="left")
        .with_columns(
            is_unrated=is_unrated,
            reason=of_first_failure(lambda column, reason: reason),
            column=of_first_failure(lambda column, reason: pl.lit(column)),
            value=of_first_failure(lambda column, reason: pl.col(FILE_COLUMNS[column])),
        )
    )


def _checks(
    source: Source, config: DataConfig, is_unrated: pl.Expr
) -> list[tuple[pl.Expr, str, pl.Expr]]:
    """The checks of a log's row in order: when it fails, the column at fault, and the reason."""
    checks: list[tuple[pl.Expr, str, pl.Expr]] = [
        (pl.col("reason").is_not_null(), "", pl.col("reason")),
        (is_missing(pl.col("user")), "user", pl.lit("no user")),
        (is_missing(pl.col("item_text")), "item", pl.lit("no item")),
    ]
    if not config.is_implicit:
        checks.append((~_is_number("rating"), "rating", pl.lit("rating is not a number")))
        is_huge = pl.col("rating").abs() > MAX_RATING
        checks.append((is_huge, "rating", pl.lit(f"rating is beyond {MAX_RATING:g}")))
    if source.has_timestamp:
        is_bad = ~_is_number("timestamp")
        checks.append((is_bad, "timestamp", pl.lit("timestamp is not a number (of seconds)")))
    if config.rating_range is not None and not config.is_implicit:
        low, high = config.rating_range
        is_out = ~pl.col("rating").is_between(low, high) & ~is_unrated
        checks.append((is_out, "rating", pl.lit(f"rating is outside {low:g} to {high:g}")))
    checks.append(
        (pl.col("item").is_null(), "item", pl.lit("the items' file does not list the item"))
    )
    return checks


def _target(config: DataConfig) -> pl.Expr:
    """What is predicted of a good row: its rating, or 1 for a click and 0 for none."""
    if not config.is_click:
        return pl.col("rating")
    if config.is_implicit:
        return pl.lit(1.0)
    return (pl.col("rating") >= config.click_at).cast(pl.Float64)


def _is_number(column: str) -> pl.Expr:
    return pl.col(column).is_finite().fill_null(False)
