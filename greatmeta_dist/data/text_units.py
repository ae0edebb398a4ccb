"""Files of lines, parsed into Parquet by ranges of bytes: a unit of work is a range.

A range has the lines that start in it, so that the lines of all ranges are those of the file. A
parser makes one row of each line, so the number of a row is that of its line.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from greatmeta_dist.data.phases import run_phase
from greatmeta_dist.data.units import Result
from greatmeta_dist.files import written_atomically

READ = "read the text"
READ_COST = 25.0
"""Seconds that a GB takes, about."""
UNIT_BYTES = 1 << 25
PART_BYTES = 1 << 22
"""Bytes that are parsed at a time."""
ROW = "row of file "
"""A column that a scan adds. It ends in a space, because a file may have any plain name."""


@dataclass(frozen=True)
class LinesFile:
    """A file of lines, and where it is parsed into."""

    path: Path
    parsed: Path
    """A folder, with a Parquet file for each range."""
    first_byte: int
    """Where the first line of data starts."""
    first_line: int
    """Its number."""
    parse: Callable[[bytes], pa.Table]
    """Makes a row of each line of a part of whole lines."""
    schema: pa.Schema

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """First bytes of the ranges, and their ends; at least one range."""
        size = self.path.stat().st_size
        starts = range(self.first_byte, max(size, self.first_byte + 1), UNIT_BYTES)
        return [(start, min(start + UNIT_BYTES, size)) for start in starts]

    def part(self, number: int) -> Path:
        return self.parsed / f"part-{number}.parquet"

    def scan(self) -> pl.LazyFrame:
        """The parsed columns, and ``line``."""
        parts = [self.part(k) for k in range(len(self.ranges))]
        frame = pl.scan_parquet(parts, glob=False, row_index_name=ROW)
        return frame.with_columns(line=pl.col(ROW).cast(pl.Int64) + self.first_line)


def parse_files(files: Sequence[LinesFile]) -> None:
    """Parse files that are not yet parsed."""
    if all(_is_parsed(file) for file in files):
        return
    for file in files:
        file.parsed.mkdir(parents=True, exist_ok=True)
    units = [
        [k, part, *bounds]
        for k, file in enumerate(files)
        for part, bounds in enumerate(file.ranges)
    ]
    cost = READ_COST * sum(end - start for *_, start, end in units) / 1e9
    key = zlib.crc32("\n".join(file.parsed.name for file in files).encode())
    run_phase(READ, f"{key:08x}", _ParseUnit(tuple(files)), units, cost=cost)


def _is_parsed(file: LinesFile) -> bool:
    return all(file.part(k).exists() for k in range(len(file.ranges)))


@dataclass(frozen=True)
class _ParseUnit:
    files: tuple[LinesFile, ...]

    def __call__(self, number: int, unit: Sequence[int]) -> Result:
        index, part, start, end = unit
        file = self.files[index]
        with (
            written_atomically(file.part(part)) as partial,
            pq.ParquetWriter(
                partial, file.schema, compression="lz4", write_statistics=False
            ) as writer,
        ):
            for lines in _parts(file, start, end):
                writer.write_table(file.parse(lines).select(file.schema.names).cast(file.schema))
        return {}


def _parts(file: LinesFile, start: int, end: int) -> Iterator[bytes]:
    """The lines that start in a range, some at a time."""
    with file.path.open("rb") as source:
        source.seek(start)
        if start > file.first_byte:
            # A line that starts at the range's first byte has the end of another one before it.
            source.seek(start - 1)
            source.readline()
        while (left := end - source.tell()) > 0:
            part = source.read(min(PART_BYTES, left))
            yield part + (b"" if part.endswith(b"\n") else source.readline())


def fetched(fetch: Callable[[str], Any], paths: Sequence[str], name: str) -> None:
    """Fetch and unpack many files at a time; ``fetch`` leaves a copy of each."""
    if len(paths) > 1:
        run_phase("unpack the files", name, _FetchUnit(fetch), list(paths), cost=0.0)


@dataclass(frozen=True)
class _FetchUnit:
    fetch: Callable[[str], Any]

    def __call__(self, number: int, path: str) -> Result:
        self.fetch(path)
        return {}
