"""A log's columns as they come → ids, numbers and times, and what is wrong with a value.

A column may be text, a number of any width, a Boolean, a decimal, a category or a time. Each
function here takes a column's name and type, and returns expressions over it. Nothing becomes null
silently: whatever is not understood has a reason.
"""

from dataclasses import dataclass

import polars as pl

from greatmeta_dist.data.text import is_missing
from greatmeta_dist.errors import require

TRUE, FALSE = ("true", "t", "yes"), ("false", "f", "no")
"""Spellings of Booleans in text, in lower case."""
UNITS = {"ns": 1e17, "µs": 1e14, "ms": 1e11, "s": 0.0}
"""Numbers of at least so much since 1970 are times in this unit: in seconds it would be after the
year 5000, and in the next coarser one."""
PER_SECOND = {"s": 1.0, "ms": 1e3, "µs": 1e6, "ns": 1e9}
MIN_TIME_S = -2_208_988_800.0
"""1900-01-01. Earlier dates, such as year 1, are fillers for a missing time."""


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


def require_plain(path: str, column: str, kind: pl.DataType) -> None:
    """Raise ``InputError`` where a column cannot hold ids, numbers or times."""
    require(
        not kind.is_nested() and kind != pl.Object,
        f"{path}: column {column} is of type {kind}; expected plain values",
    )


def id_value(column: str, kind: pl.DataType) -> Value:
    """Ids: integers as Int64, everything else as text.

    Whole floats are integers: a column of integers in which a value is missing comes as floats from
    many tools. Text is stripped.
    """
    value, is_null = pl.col(column), pl.col(column).is_null()
    if (kind.is_integer() and kind not in (pl.UInt64, pl.Int128, pl.UInt128)) or kind == pl.Boolean:
        return Value(value.cast(pl.Int64), is_null, pl.lit(False), value.cast(pl.String))
    if kind.is_float():
        # Beyond 2⁵³ neighbouring integers are the same float.
        is_whole = (value == value.floor()) & (value.abs() <= 2.0**53)
        whole = pl.when(is_whole).then(value).cast(pl.Int64)
        is_absent = is_null | value.is_nan()
        return Value(whole, is_absent, ~is_absent & ~is_whole, value.cast(pl.String))
    text = value.cast(pl.String).str.strip_chars()
    is_absent = is_missing(text)
    return Value(pl.when(~is_absent).then(text), is_absent, pl.lit(False), text)


def number_value(column: str, kind: pl.DataType) -> Value:
    """Finite numbers as Float64; Booleans are 0 and 1."""
    value, is_null = pl.col(column), pl.col(column).is_null()
    text = value.cast(pl.String)
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
        is_absent = is_missing(stripped)
    is_good = number.is_finite().fill_null(False) & ~is_absent
    is_bad = ~is_absent & ~is_good
    if_plain = None
    if kind == pl.String:
        plain = value.cast(pl.Float64, strict=False)
        if_plain = pl.when(plain.is_finite()).then(plain)
    return Value(pl.when(is_good).then(number), is_absent, is_bad, text, if_plain)


def time_value(column: str, kind: pl.DataType, *, unit: str) -> Value:
    """Times as seconds since 1970, Float64.

    Numbers are in ``unit``; text is numbers or ISO 8601.
    """
    value, is_null = pl.col(column), pl.col(column).is_null()
    text = value.cast(pl.String)
    if kind in (pl.Date, pl.Datetime):
        seconds = value.cast(pl.Datetime("us")).dt.epoch("us").cast(pl.Float64) / 1e6
        is_absent = is_null
    elif kind.is_numeric():
        seconds = value.cast(pl.Float64) / PER_SECOND[unit]
        is_absent = is_null | seconds.is_nan()
    else:
        stripped = text.str.strip_chars()
        number = stripped.cast(pl.Float64, strict=False) / PER_SECOND[unit]
        # Of numbers, to_datetime would try every format that it knows.
        no_number = pl.when(number.is_null() & ~is_missing(stripped)).then(stripped)
        moment = no_number.str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
        seconds = pl.coalesce(number, moment.dt.epoch("us").cast(pl.Float64) / 1e6)
        is_absent = is_missing(stripped)
    is_good = seconds.is_finite().fill_null(False) & ~is_absent & (seconds >= MIN_TIME_S)
    is_bad = ~is_absent & ~is_good
    if_plain = None
    if kind == pl.String:
        plain = value.cast(pl.Float64, strict=False) / PER_SECOND[unit]
        if_plain = pl.when(plain.is_finite() & (plain >= MIN_TIME_S)).then(plain)
    return Value(pl.when(is_good).then(seconds), is_absent, is_bad, text, if_plain)


def time_unit(sample: pl.Series) -> str:
    """The unit of a column's numbers, told by the size of its first ones."""
    if sample.dtype.is_temporal():
        return "s"
    numbers = sample.cast(pl.Float64, strict=False).drop_nulls().drop_nans().abs()
    typical = float(numbers.median() or 0.0) if len(numbers) else 0.0
    return next(unit for unit, least in UNITS.items() if typical >= least)
