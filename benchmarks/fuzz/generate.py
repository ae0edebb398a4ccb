"""Logs with every kind of fault, drawn at random.

CSV: truncated and overlong lines, bytes that are no UTF-8, quotes that never close, blank lines,
missing values, numbers that are none, huge ids, both line endings, a last line without its end.
Parquet: ids as integers or as floats, some too large to be whole, null, NaN, infinite ratings,
parts without rows. In both, users and items are of very unequal activity and many rows are repeats.
"""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

HEADER = b"u,i,r,t\n"
FAULTS = 0.05
"""Share of rows with a fault, about."""
BAD_RATINGS = ("", "five", "nan", "NULL", "inf", "-inf", "1e30", "9", "1e400", " ")
BAD_TIMES = ("noon", "0001-01-01", "inf", "-1e12", "2020-13-45T00:00:00")
BAD_LINES = (
    b"u1,i1",
    b"u1",
    b"",
    b"   ",
    b"u1,i1,4,3,2",
    b'"u1,i1,4,3',
    b'u1,"i1,4,3',
    b"\xff\xfe,i1,4,3",
    "é,i1,4,3".encode("latin-1"),
    "日,本,4,3".encode("utf-16-le").replace(b"\n", b"").replace(b"\0", b"\x80"),
)


class Draws:
    """Users, items, ratings and times of good rows [n]."""

    def __init__(self, rng: np.random.Generator, num_rows: int, num_users: int, num_items: int):
        self.user = rng.integers(num_users, size=num_rows)
        if num_users > 1:  # a few users have a large share of the rows
            heavy = rng.random(num_rows) < 0.1
            self.user[heavy] = rng.integers(min(3, num_users), size=int(heavy.sum()))
        self.item = np.minimum(rng.zipf(1.3, num_rows) - 1, num_items - 1)
        self.rating = rng.integers(0, 11, num_rows) / 2
        self.time = 1_000_000_000 + rng.integers(0, 50, num_rows) * 86_400  # many are equal


def write_csv(
    path: Path, *, num_rows: int, num_users: int, num_items: int, seed: int, faults: float = FAULTS
) -> None:
    """Write a CSV log ``u,i,r,t``."""
    rng = np.random.default_rng(seed)
    draws = Draws(rng, num_rows, num_users, num_items)
    kind = rng.random(num_rows)
    ending = b"\r\n" if seed % 2 else b"\n"
    with path.open("wb") as file:
        file.write(HEADER)
        for k in range(num_rows):
            if kind[k] < faults / 2:
                line = BAD_LINES[rng.integers(len(BAD_LINES))]
            else:
                line = csv_line(rng, draws, k, is_at_fault=kind[k] < faults).encode()
            is_last = k == num_rows - 1
            file.write(line + (b"" if is_last and line else ending))


def csv_line(rng: np.random.Generator, draws: Draws, k: int, *, is_at_fault: bool) -> str:
    """A row of a CSV log."""
    user, item = _token("u", int(draws.user[k])), _token("i", int(draws.item[k]))
    rating, time = f"{draws.rating[k]:g}", str(draws.time[k])
    spelling = rng.integers(12)
    if spelling == 0:
        rating = f" {draws.rating[k]:.2f} "
    elif spelling == 1:
        time = str(np.datetime64(int(draws.time[k]), "s")) + "Z"
    elif spelling == 2 and "," not in user:
        user = f'"{user}"'
    if is_at_fault:
        fault = rng.integers(4)
        if fault == 0:
            user = ("", "null", " ", "NaN")[rng.integers(4)]
        elif fault == 1:
            item = ("", "NULL", "nan")[rng.integers(3)]
        elif fault == 2:
            rating = BAD_RATINGS[rng.integers(len(BAD_RATINGS))]
        else:
            time = ("", *BAD_TIMES)[rng.integers(1 + len(BAD_TIMES))]
    return f"{user},{item},{rating},{time}"


def _token(prefix: str, number: int) -> str:
    """A name: mostly plain, some with commas, quotes, other scripts, or a number too large."""
    odd = number % 17
    if odd == 3:
        return f'"{prefix}, ""{number}"""'
    if odd == 5:
        return f"{prefix}-ü�{number}"
    if odd == 7:
        return f"9999999999999999999{number}"
    return f"{prefix}{number}"


def write_parquet(
    folder: Path,
    *,
    num_rows: int,
    num_users: int,
    num_items: int,
    seed: int,
    faults: float = FAULTS,
) -> None:
    """Write a folder of Parquet files ``u i r t``, of which one holds no row."""
    rng = np.random.default_rng(seed)
    draws = Draws(rng, num_rows, num_users, num_items)
    is_float = bool(seed % 2)
    user = _ids(draws.user, is_float=is_float, rng=rng, faults=faults)
    item = pl.Series("i", [f" i{k} " for k in draws.item])
    item = item.set(pl.Series(rng.random(num_rows) < faults / 4), None)
    rating = draws.rating.copy()
    for value in (np.nan, np.inf, -np.inf, 1e30):
        rating[rng.random(num_rows) < faults / 16] = value
    time = pl.Series("t", draws.time).set(pl.Series(rng.random(num_rows) < faults / 4), None)
    frame = pl.DataFrame({"u": user, "i": item, "r": rating, "t": time})
    folder.mkdir(parents=True, exist_ok=True)
    third = num_rows // 3
    for name, part in (
        ("a", frame[:third]),
        ("b", frame[:0]),
        ("c", frame[third:]),
    ):
        part.write_parquet(folder / f"{name}.parquet")


def _ids(
    number: NDArray[np.int64], *, is_float: bool, rng: np.random.Generator, faults: float
) -> pl.Series:
    """Users as integers near both ends of their range, or as floats of which some are no ids."""
    is_bad = rng.random(len(number)) < faults / 4
    if not is_float:
        large = np.where(number % 5 == 0, 2**63 - 1 - number, number)
        return pl.Series("u", np.where(number % 5 == 1, -(2**63) + number, large)).set(
            pl.Series(is_bad), None
        )
    ids = number.astype(np.float64)
    bad = np.array([np.nan, np.inf, 1e300, 2.0**60, 0.5])
    ids[is_bad] = bad[rng.integers(len(bad), size=int(is_bad.sum()))]
    return pl.Series("u", ids)
