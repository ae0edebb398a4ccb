"""Columns of Parquet as tools write them: each type is read, or refused with file and column."""

from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from greatmeta_dist.errors import InputError

INDIA = timezone(timedelta(hours=5, minutes=30))
NEW_YEAR = 1_577_836_800.0
"""2020-01-01, UTC."""


def write(folder: Path, **columns) -> Path:
    number = len(next(iter(columns.values())))
    plain = {"user": list(range(number)), "item": [1] * number, "rating": [1.0] * number}
    pq.write_table(pa.table({**plain, **columns}), folder / "log.parquet")
    return folder / "log.parquet"


@pytest.mark.parametrize(
    "user, read",
    [
        (pa.array([Decimal("7.00"), Decimal("7.5")], pa.decimal256(50, 2)), ["7", "7.50"]),
        (pa.array([Decimal("7"), Decimal("8")], pa.decimal128(38, 0)), ["7", "8"]),
        (pa.array([2**64 - 1, 5], pa.uint64()), ["18446744073709551615", "5"]),
        (pa.array([2**63 + 1, 5], pa.uint64()).dictionary_encode(), [str(2**63 + 1), "5"]),
        (pa.array([b"ab", b"\xff\xfe"], pa.binary(2)), ["ab", "0xfffe"]),
        (pa.array([b"ab", b"\xc3"], pa.large_binary()), ["ab", "0xc3"]),
        (pa.array([True, False]), [1, 0]),
        (pa.array(np.array([7, 8], np.float16)), [7, 8]),
        (pa.array([7.0, -0.0], pa.float32()), [7, 0]),
        (pa.array([7.0, 8.0]).dictionary_encode(), [7, 8]),
        (pa.array([date(2020, 1, 1), date(2020, 1, 2)]), ["2020-01-01", "2020-01-02"]),
        (pa.array(["00123", "9" * 30]), ["00123", "9" * 30]),
        (pa.array(["7.0", "1e3"]), ["7.0", "1e3"]),
        (pa.ExtensionArray.from_storage(pa.json_(), pa.array(["a", "b"])), ["a", "b"]),
        (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0], pa.int8())), [1, 0]),
    ],
)
def test_ids_of_rare_types_are_read(tmp_path, checked, user, read):
    good, bad = checked("parquet", write(tmp_path, user=user))
    assert [row[0] for row in good] == read
    assert not bad


@pytest.mark.parametrize(
    "user, reason",
    [
        (pa.array([0.5], pa.float32()), "user is no whole number"),
        (pa.array(np.array([0.5], np.float16)), "user is no whole number"),
        (pa.array([float("inf")]), "user is no whole number"),
        (pa.array([2.0**60]), "user is no whole number"),
        (pa.array([float("nan")]), "no user"),
        (pa.nulls(1), "no user"),
        (pa.array([" "]), "no user"),
    ],
)
def test_ids_that_are_none_are_rejected(tmp_path, checked, user, reason):
    good, bad = checked("parquet", write(tmp_path, user=user))
    assert not good
    assert [row[-1].startswith(reason) for row in bad] == [True]


@pytest.mark.parametrize(
    "user, kind",
    [
        (pa.array([time(1)]), "Time"),
        (pa.array([timedelta(1)]), "Duration"),
        (pa.array([[1]]), "List"),
        (pa.array([{"a": 1}]), "Struct"),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "Map"),
    ],
)
def test_types_that_are_no_ids_are_named(tmp_path, checked, user, kind):
    with pytest.raises(InputError, match=rf"log\.parquet: column user is of type {kind}"):
        checked("parquet", write(tmp_path, user=user))


@pytest.mark.parametrize(
    "unmapped",
    [
        pa.array([{"a": Decimal(1)}], pa.struct([("a", pa.decimal256(50, 2))])),
        pa.array([datetime(2020, 1, 1)], pa.timestamp("us", "+05:30")),
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((1, 2, 2), np.float32)),
        pa.array([timedelta(1)]),
    ],
)
def test_columns_nobody_mapped_may_be_of_any_type(tmp_path, checked, unmapped):
    good, bad = checked("parquet", write(tmp_path, other=unmapped))
    assert (len(good), len(bad)) == (1, 0)


@pytest.mark.parametrize(
    "rating, read",
    [
        (pa.array([Decimal("4.50")], pa.decimal256(50, 2)), 4.5),
        (pa.array([" 4.5 "]), 4.5),
        (pa.array(["on"]), 1.0),
        (pa.array([b"4"], pa.binary(1)), 4.0),
        (pa.array(np.array([4.5], np.float16)), 4.5),
    ],
)
def test_ratings_of_rare_types_are_read(tmp_path, checked, rating, read):
    good, bad = checked("parquet", write(tmp_path, rating=rating))
    assert ([row[2] for row in good], bad) == ([read], [])


@pytest.mark.parametrize("rating", ["4,5", "80%", "0x10", "1_000", "4/5", "inf", "-Infinity"])
def test_ratings_that_are_no_numbers_are_rejected_as_they_stand(tmp_path, checked, rating):
    good, bad = checked("parquet", write(tmp_path, rating=[rating]))
    assert good == []
    assert bad == [("log.parquet", 1, "rating", rating, "rating is not a number")]


@pytest.mark.parametrize(
    "moment",
    [
        pa.array([datetime(2020, 1, 1, 5, 30)], pa.timestamp("s")).cast(pa.timestamp("ms")),
        pa.array([datetime(2020, 1, 1, 11, tzinfo=INDIA)], pa.timestamp("ms", "Asia/Kolkata")),
        pa.array([datetime(2020, 1, 1, 11, tzinfo=INDIA)], pa.timestamp("us", "+05:30")),
        pa.array([datetime(2020, 1, 1, 5, 30)], pa.timestamp("us", "Mars/Olympus")),
        pa.array(["2020-01-01T11:00:00+0530"]),
        pa.array(["2020-01-01t05:30:00z"]),
        pa.array(["2020-1-1 5:30:00"]),
        pa.array(["2020-01-01 05:30:00 UTC"]).dictionary_encode(),
        pa.array([20200101053000]),
        pa.array(["20200101053000"]),
        pa.array(["1577856600000.0"]),
        pa.array([Decimal("1577856600.0")]),
        pa.array(["1.5778566e9"]),
        pa.array([1_577_856_600_000], pa.uint64()),
    ],
)
def test_times_of_rare_forms_are_read(tmp_path, checked, moment):
    good, bad = checked("parquet", write(tmp_path, timestamp=moment))
    assert ([row[3] for row in good], bad) == ([NEW_YEAR + 5.5 * 3600], [])


@pytest.mark.parametrize("day", [pa.array([20200101]), pa.array(["20200101"])])
def test_dates_as_numbers_are_dates(tmp_path, checked, day):
    assert [row[3] for row in checked("parquet", write(tmp_path, timestamp=day))[0]] == [NEW_YEAR]


@pytest.mark.parametrize(
    "filler",
    [
        pa.array([datetime(9999, 12, 31), datetime(2020, 1, 1)]),
        pa.array(["9999-12-31", "2020-01-01"]),
        pa.array([1_577_836_800_000, *[1_577_836_800] * 3]),
    ],
)
def test_times_of_other_units_and_far_years_are_rejected(tmp_path, checked, filler):
    good, bad = checked("parquet", write(tmp_path, timestamp=filler))
    assert {row[3] for row in good} == {NEW_YEAR}
    assert [row[-1] for row in bad] == [
        "timestamp is after 2200, as fillers for a missing time are"
    ]


@pytest.mark.parametrize(
    "times",
    [
        pa.array([datetime(1970, 1, 1), datetime(2020, 1, 1)]),
        pa.array(["1970-01-01T00:00:00Z", "2020-01-01"]),
        pa.array([0, 1_577_836_800, 1_577_836_800]),
    ],
)
def test_1970_is_a_filler_where_times_are_of_a_calendar(tmp_path, checked, times):
    good, bad = checked("parquet", write(tmp_path, timestamp=times))
    assert good[0][3] is None
    assert not bad


def test_times_that_count_from_0_stay(tmp_path, checked):
    good, _ = checked("parquet", write(tmp_path, timestamp=[0, 5, -5]))
    assert [row[3] for row in good] == [0, 5, -5]


@pytest.mark.parametrize("text", ["2020-02-30", "2020-01-01T24:00:00", "01/02/2020", "Jan 1, 2020"])
def test_what_is_no_time_is_rejected(tmp_path, checked, text):
    _, bad = checked("parquet", write(tmp_path, timestamp=[text]))
    assert [(row[2], row[3]) for row in bad] == [("timestamp", text)]


@pytest.mark.parametrize("kind", [pl.Enum(["a", "b"]), pl.Categorical])
def test_categories_of_polars_are_text(tmp_path, checked, kind):
    frame = pl.DataFrame({"user": ["a", "b"], "item": [1, 2], "rating": [1, 2]})
    frame.with_columns(pl.col("user").cast(kind)).write_parquet(tmp_path / "log.parquet")
    assert [row[0] for row in checked("parquet", tmp_path / "log.parquet")[0]] == ["a", "b"]
