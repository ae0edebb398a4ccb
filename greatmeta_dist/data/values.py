"""A log's columns as they come → ids, numbers and times, and what is wrong with a value.

A column may be text, a number of any width, a Boolean, a decimal, a category or a time. Each
function here takes a column's name and type, and returns expressions over it. Nothing becomes null
silently: whatever is not understood has a reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from greatmeta_dist.config.data import MISSING_VALUES
from greatmeta_dist.data.text import is_missing

TRUE, FALSE = ("true", "t", "yes", "y", "on"), ("false", "f", "no", "n", "off")
"""Spellings of Booleans in text, in lower case."""
UNITS = {"ns": 1e17, "µs": 1e14, "ms": 1e11, "s": 0.0}
"""Numbers of at least so much since 1970 are times in this unit: in seconds it would be after the
year 5000, and in the next coarser one."""
ISO = "%Y-%m-%dT%H:%M:%S%.6f"
YEAR_1973_S = 1e8
PER_SECOND = {"s": 1.0, "ms": 1e3, "µs": 1e6, "ns": 1e9}
MIN_TIME_S, MAX_TIME_S = -2_208_988_800.0, 7_258_118_400.0
"""1900-01-01 and 2200-01-01. Dates such as the years 1 and 9999 are fillers for a missing time."""
DATES = {"YYYYMMDD": (8, "%Y%m%d"), "YYYYMMDDhhmmss": (14, "%Y%m%d%H%M%S")}
"""Numbers that are written dates: so many digits, and their format."""

ISO_PATTERN = (
    r"^(?P<year>\d{4})[-/](?P<month>\d\d?)[-/](?P<day>\d\d?)"
    r"(?:[Tt ]\s*(?P<hour>\d\d?):(?P<minute>\d\d)(?::(?P<second>\d\d))?"
    r"(?:[.,](?P<fraction>\d{1,6})\d*)?)?"
    r"\s*(?:[Zz]|UTC|GMT|(?P<zone>[+-]\d\d):?(?P<minutes>\d\d)?)?$"
)


@dataclass(frozen=True)
class Value:
    """A column's values, checked."""

    value: pl.Expr
    """Typed; null where missing or bad."""
    is_missing: pl.Expr
    """Whether there is no value."""
    is_bad: pl.Expr
    """Whether there is one that is not understood."""
    text: pl.Expr
    """As it stands in the file, for the rejects."""
    if_plain: pl.Expr | None = None
    """Of a column of text, quick to compute: the value where the text is a plain number that is
    neither missing nor bad, else null."""


def id_value(column: str, kind: pl.DataType, missing: Sequence[str] = MISSING_VALUES) -> Value:
    """Ids: integers as Int64, everything else as text. ``missing`` are spellings of no value.

    Whole floats are integers: a column of integers in which a value is missing comes as floats from
    many tools. Text is stripped.
    """
    value, is_null = pl.col(column), pl.col(column).is_null()
    if (kind.is_integer() and kind not in (pl.UInt64, pl.Int128, pl.UInt128)) or kind == pl.Boolean:
        return Value(value.cast(pl.Int64), is_null, pl.lit(False), value.cast(pl.String))
    if kind.is_float():
        value = value.cast(pl.Float64)
        whole = pl.when(is_whole(value)).then(value).cast(pl.Int64)
        is_absent = is_null | value.is_nan()
        return Value(whole, is_absent, ~is_absent & ~is_whole(value), value.cast(pl.String))
    text = as_text(value, kind).str.strip_chars()
    is_absent = is_missing(text, missing)
    return Value(pl.when(~is_absent).then(text), is_absent, pl.lit(False), text)


def number_value(column: str, kind: pl.DataType, missing: Sequence[str] = MISSING_VALUES) -> Value:
    """Finite numbers as Float64; Booleans are 0 and 1. ``missing`` are spellings of no value."""
    value, is_null = pl.col(column), pl.col(column).is_null()
    text = value.cast(pl.String, strict=False)
    if kind.is_numeric() or kind == pl.Boolean:
        number = value.cast(pl.Float64)
        is_absent = is_null | number.is_nan()
    else:
        stripped = text.str.strip_chars()
        lower = stripped.str.to_lowercase()
        number = (
            pl.when(lower.is_in(TRUE))
            .then(1.0)
            .when(lower.is_in(FALSE))
            .then(0.0)
            .otherwise(stripped.cast(pl.Float64, strict=False))
        )
        is_absent = is_missing(stripped, missing)
    is_good = number.is_finite().fill_null(False) & ~is_absent
    is_bad = ~is_absent & ~is_good
    if_plain = None
    if kind == pl.String and not _spells_a_number(missing):
        plain = value.cast(pl.Float64, strict=False)
        if_plain = pl.when(plain.is_finite()).then(plain)
    return Value(pl.when(is_good).then(number), is_absent, is_bad, text, if_plain)


def _spells_a_number(missing: Sequence[str]) -> bool:
    """Whether a number, such as -1, stands for a missing value: then none is plain at first sight.

    Spellings of nan and infinity are never plain.
    """
    numbers = pl.Series(missing, dtype=pl.String).cast(pl.Float64, strict=False)
    return bool(numbers.is_finite().any())


def time_value(
    column: str,
    kind: pl.DataType,
    missing: Sequence[str] = MISSING_VALUES,
    *,
    unit: str,
    zero_is_missing: bool = False,
) -> Value:
    """Times as seconds since 1970, Float64. ``missing`` are spellings of no value.

    Numbers are in ``unit``; text is numbers or ISO 8601. Times without a zone are of UTC. Whoever
    calls this decides what becomes of times after ``MAX_TIME_S``.
    """
    value, is_null = pl.col(column), pl.col(column).is_null()
    text = value.cast(pl.String, strict=False)
    if kind in (pl.Date, pl.Datetime):
        seconds = value.cast(pl.Datetime("us")).dt.epoch("us").cast(pl.Float64) / 1e6
        is_absent = is_null
    elif kind.is_numeric():
        seconds = _in_seconds(value.cast(pl.Float64), unit)
        is_absent = is_null | value.cast(pl.Float64).is_nan()
    else:
        stripped = text.str.strip_chars()
        number = _in_seconds(stripped.cast(pl.Float64, strict=False), unit)
        is_absent = is_missing(stripped, missing)
        moment = iso_moment(pl.when(number.is_null() & ~is_absent).then(stripped))
        seconds = pl.coalesce(number, moment.dt.epoch("us").cast(pl.Float64) / 1e6)
    if zero_is_missing:
        is_absent = is_absent | (seconds == 0).fill_null(False)
    is_good = seconds.is_finite().fill_null(False) & ~is_absent & (seconds >= MIN_TIME_S)
    is_bad = ~is_absent & ~is_good
    if_plain = None
    if kind == pl.String and not _spells_a_number(missing):
        plain = _in_seconds(value.cast(pl.Float64, strict=False), unit)
        if_plain = pl.when(plain.is_finite() & (plain >= MIN_TIME_S) & (plain != 0)).then(plain)
    return Value(pl.when(is_good).then(seconds), is_absent, is_bad, text, if_plain)


def _in_seconds(number: pl.Expr, unit: str) -> pl.Expr:
    """Numbers in a unit of ``PER_SECOND``, or dates of ``DATES``; null where one is no date."""
    if unit in PER_SECOND:
        return number / PER_SECOND[unit]
    digits = pl.when(is_whole(number)).then(number).cast(pl.Int64).cast(pl.String)
    date = digits.str.to_datetime(DATES[unit][1], time_unit="us", strict=False)
    return date.dt.epoch("us").cast(pl.Float64) / 1e6


def iso_moment(text: pl.Expr) -> pl.Expr:
    """ISO 8601 as moments of UTC; null where the text is none.

    ``2019-05-01``, ``2019/05/01 10:30``, ``2019-05-01T10:30:00.5+02:00`` and the like are brought
    to one form, since a column may mix them and one format is what Polars reads.
    """
    parts = text.str.extract_groups(ISO_PATTERN)
    clock = {"hour": "00", "minute": "00", "second": "00", "fraction": "0"}
    defaults = {**clock, "zone": "+00", "minutes": "00"}
    filled = {name: parts.struct.field(name).fill_null(text) for name, text in defaults.items()}
    filled["hour"] = filled["hour"].str.zfill(2)
    date = [parts.struct.field(name).str.zfill(2) for name in ("year", "month", "day")]
    whole = pl.format("{}-{}-{}T{}:{}:{}.{}{}{}", *date, *filled.values())
    return whole.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%z", time_unit="us", strict=False)


def time_unit(sample: pl.Series) -> str:
    """The unit of a column's numbers, told by the size of its first ones."""
    numbers = _numbers(sample)
    for unit, (num_digits, form) in DATES.items():
        text = numbers.cast(pl.Int64, strict=False).cast(pl.String)
        years = text.str.to_datetime(form, strict=False).dt.year()
        if len(text) and (text.str.len_chars() == num_digits).all() and _is_recent(years):
            return unit
    typical = float(np.median(numbers.abs().to_numpy())) if len(numbers) else 0.0
    return next(unit for unit, least in UNITS.items() if typical >= least)


def has_real_times(sample: pl.Series, unit: str) -> bool:
    """Whether a column's times are of a calendar, not counted from some start of their own.

    Then 1970-01-01, to the second, is a filler.
    """
    numbers = _numbers(sample)
    if unit in DATES or not len(numbers):
        return True
    return float(np.median(numbers.to_numpy())) / PER_SECOND[unit] > YEAR_1973_S


def _numbers(sample: pl.Series) -> pl.Series:
    if sample.dtype.is_temporal():
        return pl.Series(dtype=pl.Float64)
    return sample.cast(pl.Float64, strict=False).drop_nulls().drop_nans()


def _is_recent(years: pl.Series) -> bool:
    return not years.null_count() and years.is_between(1970, 2100).all()


def is_whole(value: pl.Expr) -> pl.Expr:
    """Whether a float is an integer. Beyond 2⁵³ neighbouring integers are the same float."""
    return (value == value.floor()) & (value.abs() <= 2.0**53)


def as_text(value: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """A plain column as text: whole floats as integers, times in ISO 8601."""
    if kind.is_float():
        number = value.cast(pl.Float64)
        whole = pl.when(is_whole(number)).then(number).cast(pl.Int64).cast(pl.String)
        return pl.coalesce(whole, number.cast(pl.String))
    if isinstance(kind, pl.Decimal):
        return value.cast(pl.String).str.replace(r"^(-?\d+)\.0+$", "$1")
    if kind == pl.Binary:
        return value.map_batches(_bytes_as_text, return_dtype=pl.String, is_elementwise=True)
    if kind == pl.Date:
        return value.dt.strftime("%Y-%m-%d")
    if kind == pl.Datetime:
        return moment(value, kind).dt.strftime(ISO)
    return value.cast(pl.String, strict=False)


def moment(value: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """A date or time as one without a zone, that of UTC."""
    if isinstance(kind, pl.Datetime) and kind.time_zone is not None:
        value = value.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return value.cast(pl.Datetime("us"))


def _bytes_as_text(values: pl.Series) -> pl.Series:
    """Text of UTF-8; what is none, such as hashes and UUIDs, as hexadecimal digits."""
    try:
        return values.cast(pl.String)
    except pl.exceptions.PolarsError:  # raised whatever the cast's strictness
        return pl.Series(values.name, [_as_digits(v) for v in values.to_list()], pl.String)


def _as_digits(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}" if value is not None else None
