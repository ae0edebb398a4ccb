"""A slow reader of logs, in plain Python: every row is good, or has the reason why it is not."""

import gzip
import json
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


@dataclass(frozen=True)
class Place:
    """Where a row stands."""

    at: tuple[str, int]
    """File, and line there."""
    number: int
    """In all files together."""


@dataclass
class PlainLog:
    """A log's rows, each accounted for."""

    num_read: int = 0
    num_unrated: int = 0
    num_other_events: int = 0
    rows: list[Row] = field(default_factory=list)
    rejected: dict[tuple[str, int], str] = field(default_factory=dict)
    """File and line → reason."""

    @property
    def reasons(self) -> Counter[str]:
        return Counter(self.rejected.values())


def read_log(path: Path, config: DataConfig) -> PlainLog:
    """Read a file with the columns ``u i r t``, or a folder of such files, row by row.

    The event ``e`` is in the lines of JSON, or in the names of folders.
    """
    log = PlainLog()
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("_"))
    for file in files:
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        keys = dict(part.split("=") for part in name.split("/")[:-1])
        for line, fields in _rows_of(file):
            log.num_read += 1
            place = Place((name, line), log.num_read)
            if isinstance(fields, str):
                log.rejected[name, line] = fields
            else:
                _add(log, place, {**keys, **dict(zip("uirte", fields, strict=False))}, config)
    return log


def _rows_of(file: Path) -> Iterator[tuple[int, list[str] | str]]:
    """Each row's line, with its fields or with the reason why it is malformed."""
    if file.suffix == ".parquet":
        yield from enumerate(_parquet_rows(file), 1)
        return
    data = file.read_bytes()
    data = gzip.decompress(data) if file.suffix == ".gz" else data
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    if ".csv" in file.name:
        for number, line in enumerate(lines[1:], 2):
            yield number, _fields(line.rstrip(b"\r"))
    else:
        for number, line in enumerate(lines, 1):
            yield number, _json_fields(line)


def _parquet_rows(file: Path) -> Iterator[list[str] | str]:
    columns = pq.read_table(file).to_pydict()
    for user, *others in zip(*(columns[name] for name in "uirt"), strict=True):
        if isinstance(user, float) and not math.isnan(user):
            if not math.isfinite(user) or user != int(user) or abs(user) > 2**53:
                yield "user is no whole number, and the column holds numbers"
                continue
            user = int(user)
        yield ["" if v is None else str(v) for v in (user, *others)]


def _json_fields(line: bytes) -> list[str] | str:
    if not line.strip():
        return "blank line"
    try:
        value = json.loads(line)
    except UnicodeDecodeError:
        return "not valid utf-8"
    except ValueError:
        return "not valid JSON"
    if not isinstance(value, dict):
        return "not a JSON object"
    fields = []
    for name in "uirte":
        one = value.get(name)
        is_whole = isinstance(one, float) and one.is_integer()
        fields.append("" if one is None else str(int(one) if is_whole else one))
    return fields


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


def _add(log: PlainLog, place: Place, fields: dict[str, str], config: DataConfig) -> None:
    """Check a well-formed row, in the order in which a row's columns are checked."""
    user, item, rating, time = (fields[name].strip() for name in "uirt")
    weight = 1.0
    if config.events:
        assert config.columns.event is not None
        event = fields[config.columns.event].strip()
        if not _is_missing(event) and event not in config.events:
            log.num_other_events += 1
            return
        weight = config.events.get(event, math.nan)
    reason, number, seconds = _checked(user, item, rating, time, weight, config)
    if reason is not None:
        log.rejected[place.at] = reason
    elif config.has_ratings and number == config.unrated_value:
        log.num_unrated += 1
    else:
        log.rows.append(Row(user, item, number * weight, seconds, place.number, place.at))


def _checked(
    user: str, item: str, rating: str, time: str, weight: float, config: DataConfig
) -> tuple[str | None, float, float | None]:
    """The reason why a row is rejected, its rating, and its time."""
    number, seconds = 1.0, None
    if math.isnan(weight):
        return "no event", number, seconds
    if _is_missing(user):
        return "no user", number, seconds
    if _is_missing(item):
        return "no item", number, seconds
    if config.has_ratings:
        found = _number(rating)
        if found is None or not math.isfinite(found):
            return NO_RATING, number, seconds
        number = found
        if abs(number) > 1e15:
            return "rating is beyond 1e+15", number, seconds
        low, high = config.rating_range or (-math.inf, math.inf)
        if not low <= number <= high and number != config.unrated_value:
            return f"rating is outside {low:g} to {high:g}", number, seconds
    if config.columns.timestamp is not None:
        seconds = _seconds(time)
        if seconds is not None and not (math.isfinite(seconds) and seconds >= YEAR_1900):
            return NO_TIME, number, seconds
        if seconds is None and config.needs_times is not None:
            return f"no time, and {config.needs_times}", number, seconds
    return None, number, seconds


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
