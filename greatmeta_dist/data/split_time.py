"""The point in time that parts training rows from the rest, and the items that are new after it.

It is found exactly, and memory does not grow with the log: a time is a number of 64 bits, and the
log is read once for every few bits that vary. Rows of equal time are never parted: those at the
point itself lie after it.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.buckets import read_columns
from greatmeta_dist.data.phases import Phases
from greatmeta_dist.data.scan import ScannedLog
from greatmeta_dist.data.tables import read_table
from greatmeta_dist.data.units import Result
from greatmeta_dist.errors import require
from greatmeta_dist.files import written_atomically

FIND_POINT = "find the point in time"
DIGIT_BITS = 12
"""Bits that one pass over the log decides."""


@dataclass(frozen=True)
class SplitTime:
    """The point in time, and what lies before it."""

    seconds: float
    """The time of the first row after it, or the time that was asked for."""
    seen_items: pl.Series
    """Items with a row before it, as they stand in the buckets."""


def require_times(config: DataConfig, *, has_times: bool) -> None:
    """Raise ``InputError`` where an option needs times, and the log has none."""
    instead = "data.query_by=random"
    if config.is_split_by_time:
        instead = "neither data.split_at nor data.split_last"
    option = config.needs_times
    if option is None and config.support_by == "latest":
        option, instead = "data.support_by=latest", "data.support_by=random"
    require(
        has_times or option is None,
        f"{option} needs times, and the log has none; set data.columns.timestamp or {instead}",
    )


def find_split_time(log: ScannedLog, config: DataConfig, phases: Phases) -> SplitTime:
    """The point in time that the options ask for.

    For ``data.split_last`` it is the least time of a row such that at most this share of the rows
    lies at or after it. Raises ``InputError`` where no row would lie before it, or none after.
    """
    units = range(len(log.files))
    times = _Times.of(phases.run(FIND_POINT, _RangeUnit(log), units, part="range"))
    if config.split_seconds is not None:
        seconds = config.split_seconds
        require(
            times.first < seconds <= times.last,
            f"data.split_at={config.split_at} leaves no row before it, or none at or after it; the "
            f"log's times are from {_named(times.first)} to {_named(times.last)}",
        )
    else:
        assert config.split_last is not None
        num_last = math.floor(config.split_last * times.num_rows)
        require(
            times.first < times.last,
            f"data.split_last={config.split_last:g} needs several times, and all rows are at "
            f"{_named(times.last)}, which is not parted; to split by users, leave it out",
        )
        last_before = _time_at(times.num_rows - num_last - 1, times, log, phases)
        require(
            last_before < times.last,
            f"data.split_last={config.split_last:g} takes at most {num_last} of {times.num_rows} "
            f"rows, and more are at the last time, {_named(times.last)}, which is not parted; set "
            "a larger share",
        )
        seconds = float(np.nextafter(last_before, np.inf))
    seen = _SeenUnit(log, seconds, phases.folder_of(FIND_POINT))
    results = phases.run(FIND_POINT, seen, units, part="items")
    if config.split_last is not None:
        seconds = min(result["next"] for result in results if result["next"] is not None)
    seen_items = [read_table(seen.path(k))["item"] for k in units]
    return SplitTime(seconds, pl.concat(seen_items).unique())


@dataclass(frozen=True)
class _Times:
    """The range of a log's times, and the bits of them that vary."""

    num_rows: int
    first: float
    last: float
    ones: int
    """Bits that are set in every time's key."""
    varying: int
    """Bits that are set in some and not in others."""

    @classmethod
    def of(cls, results: list[Result]) -> "_Times":
        results = [result for result in results if result["rows"]]
        ones = reduce(int.__and__, (result["ones"] for result in results))
        return cls(
            sum(result["rows"] for result in results),
            min(result["first"] for result in results),
            max(result["last"] for result in results),
            ones,
            reduce(int.__or__, (result["any"] for result in results)) & ~ones,
        )


def _time_at(rank: int, times: _Times, log: ScannedLog, phases: Phases) -> float:
    """The time of a rank, from 0, among all rows by time: bits are decided from the top."""
    top = times.varying.bit_length()
    known = times.ones >> top  # bits above those that vary
    lowest = (times.varying & -times.varying).bit_length() - 1
    while top > max(lowest, 0):
        num_bits = min(DIGIT_BITS, top)
        shift = top - num_bits
        unit = _DigitUnit(log, known, shift, num_bits)
        counts = np.zeros(1 << num_bits, np.int64)
        for result in phases.run(FIND_POINT, unit, range(len(log.files)), part=f"bits {shift}"):
            digits, found = (np.array(result[name], np.int64) for name in ("digit", "count"))
            counts[digits] += found
        cumulative = np.cumsum(counts)
        digit = int(np.searchsorted(cumulative, rank, side="right"))
        rank -= int(cumulative[digit] - counts[digit])
        known, top = (known << num_bits) | digit, shift
    key = (known << top) | (times.ones & ((1 << top) - 1))
    return _time_of_key(key)


@dataclass(frozen=True)
class _RangeUnit:
    """Counts a file's times; a unit is the file's number."""

    log: ScannedLog

    def __call__(self, number: int, unit: int) -> Result:
        time = _times(self.log, unit)
        if not len(time):
            return {"rows": 0}
        key = _keys(time)
        return {
            "rows": len(time),
            "first": float(time.min()),
            "last": float(time.max()),
            "ones": int(np.bitwise_and.reduce(key)),
            "any": int(np.bitwise_or.reduce(key)),
        }


@dataclass(frozen=True)
class _DigitUnit:
    """Counts the next bits of a file's times, of those whose upper bits are known."""

    log: ScannedLog
    known: int
    shift: int
    num_bits: int

    def __call__(self, number: int, unit: int) -> Result:
        key = _keys(_times(self.log, unit))
        digit = key >> np.uint64(self.shift)
        above = self.shift + self.num_bits
        if above < 64:
            digit = digit[(key >> np.uint64(above)) == np.uint64(self.known)]
        digit &= np.uint64((1 << self.num_bits) - 1)
        values, counts = np.unique(digit, return_counts=True)
        return {"digit": values.astype(np.int64).tolist(), "count": counts.tolist()}


@dataclass(frozen=True)
class _SeenUnit:
    """Writes the items that a file has before the point, and finds its first time after it."""

    log: ScannedLog
    seconds: float
    folder: Path

    def path(self, number: int) -> Path:
        return self.folder / f"seen-{number}.arrow"

    def __call__(self, number: int, unit: int) -> Result:
        rows = read_columns(self.log.files[unit], ["item", "timestamp"])
        if rows is None:
            rows = pl.DataFrame(schema={"item": self.log.item_type, "timestamp": pl.Float64})
        is_before = rows["timestamp"] < self.seconds
        with written_atomically(self.path(number)) as partial:
            rows.filter(is_before).select("item").unique().write_ipc(partial)
        return {"next": rows.filter(~is_before)["timestamp"].min()}


def _times(log: ScannedLog, file: int) -> NDArray[np.float64]:
    rows = read_columns(log.files[file], ["timestamp"])
    return np.empty(0) if rows is None else rows["timestamp"].to_numpy()


def _keys(time: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Whole numbers that are ordered as the times are: the bits of a float, negatives turned."""
    bits = (time + 0.0).view(np.uint64)  # -0.0 becomes 0.0
    is_negative = (bits >> np.uint64(63)).astype(bool)
    return np.where(is_negative, ~bits, bits | np.uint64(1 << 63))


def _time_of_key(key: int) -> float:
    bits = np.array([key], np.uint64)
    is_negative = not key >> 63
    bits = ~bits if is_negative else bits & np.uint64((1 << 63) - 1)
    return float(bits.view(np.float64)[0])


def _named(seconds: float) -> str:
    """A time as a date and in seconds."""
    return f"{iso_time(seconds)} ({seconds:.15g} s)"


def iso_time(seconds: float) -> str:
    """A time as ISO 8601 to the second; far from our days, in seconds."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.15g} s"
