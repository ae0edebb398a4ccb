"""A slow reader of logs, in plain Python: every row is good, or has the reason why it is not."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.fuzz.plain import Row
from greatmeta_dist.config import DataConfig

MISSING = ("", "null", "nan")
"""Spellings of a missing value that generated logs have."""
YEAR_1900 = -2_208_988_800.0
NO_RATING, NO_TIME = (
    "rating is not a number",
    "timestamp is no time (a number, or ISO 8601) after 1900",
)


@dataclass
class PlainLog:
    """A log's rows, each accounted for."""

    num_read: int = 0
    num_unrated: int = 0
    rows: list[Row] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)
    """Line → reason."""

    @property
    def reasons(self) -> Counter[str]:
        return Counter(self.rejected.values())


def read_csv(path: Path, config: DataConfig) -> PlainLog:
    """Read a file ``u,i,r,t`` line by line."""
    log = PlainLog()
    lines = path.read_bytes().split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, data in enumerate(lines[1:], 2):
        log.num_read += 1
        fields = _fields(data.rstrip(b"\r"))
        if isinstance(fields, str):
            log.rejected[number] = fields
        else:
            _add(log, number, *fields, config=config)
    return log


def read_parquet(folder: Path, config: DataConfig) -> PlainLog:
    """Read a folder of files ``u i r t``; lines are counted on from file to file."""
    log = PlainLog()
    for path in sorted(folder.glob("*.parquet")):
        for user, item, rating, time in _rows_of(path):
            log.num_read += 1
            if isinstance(user, float) and not math.isnan(user):
                if not math.isfinite(user) or user != int(user) or abs(user) > 2**53:
                    reason = "user is no whole number, and the column holds numbers"
                    log.rejected[log.num_read] = reason
                    continue
                user = int(user)
            texts = ["" if v is None else str(v) for v in (user, item, rating, time)]
            _add(log, log.num_read, *texts, config=config)
    return log


def _rows_of(path: Path) -> Iterator[tuple]:
    columns = pq.read_table(path).to_pydict()
    return zip(*(columns[name] for name in "uirt"), strict=True)


def _fields(data: bytes) -> list[str] | str:
    """The four fields of a line, or why it is malformed."""
    try:
        line = data.decode()
    except UnicodeDecodeError:
        return "not valid utf-8"
    if not line.strip():
        return "blank line"
    fields, place = [], 0
    is_well_quoted = True
    while True:
        if line[place : place + 1] == '"':
            end = place + 1
            while end < len(line) and (line[end] != '"' or line[end + 1 : end + 2] == '"'):
                end += 2 if line[end] == '"' else 1
            is_well_quoted &= end < len(line) and line[end + 1 : end + 2] in ("", ",")
            fields.append(line[place + 1 : end].replace('""', '"'))
            place = end + 1
        else:
            end = line.find(",", place)
            end = len(line) if end < 0 else end
            fields.append(line[place:end])
            place = end
        if place >= len(line) or not is_well_quoted:
            break
        place += 1
    if is_well_quoted and len(fields) == 4:
        return fields
    num_present = line.count(",") + 1
    if num_present == 4:
        return "malformed quotes"
    return f"expected 4 fields, found {num_present}"


def _add(
    log: PlainLog, line: int, user: str, item: str, rating: str, time: str, *, config: DataConfig
) -> None:
    """Check a well-formed row, in the order in which a row's columns are checked."""
    user, item = user.strip(), item.strip()
    number = 1.0
    if _is_missing(user):
        log.rejected[line] = "no user"
        return
    if _is_missing(item):
        log.rejected[line] = "no item"
        return
    if config.has_ratings:
        found = _number(rating)
        if found is None or not math.isfinite(found):
            log.rejected[line] = NO_RATING
            return
        number = found
        is_unrated = number == config.unrated_value
        if abs(number) > 1e15:
            log.rejected[line] = "rating is beyond 1e+15"
            return
        low, high = config.rating_range or (-math.inf, math.inf)
        if not low <= number <= high and not is_unrated:
            log.rejected[line] = f"rating is outside {low:g} to {high:g}"
            return
    seconds = None
    if config.columns.timestamp is not None:
        seconds = _seconds(time)
        if seconds is not None and not (math.isfinite(seconds) and seconds >= YEAR_1900):
            log.rejected[line] = NO_TIME
            return
        if seconds is None and config.needs_times is not None:
            log.rejected[line] = f"no time, and {config.needs_times}"
            return
    if config.has_ratings and number == config.unrated_value:
        log.num_unrated += 1
        return
    log.rows.append(Row(user, item, number, seconds, line))


def _is_missing(text: str) -> bool:
    return text.strip().lower() in MISSING


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _seconds(text: str) -> float | None:
    """Seconds since 1970; None where there is none, and nan where it is not understood."""
    text = text.strip()
    if _is_missing(text):
        return None
    number = _number(text)
    if number is not None:
        return number
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
