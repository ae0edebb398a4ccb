"""JSON Lines → columns of strings, every line accounted for, as ``data/text.py`` does for CSV."""

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from greatmeta_dist.data.sources.folders import DataFile, local_file
from greatmeta_dist.data.text import require_file
from greatmeta_dist.errors import require

LINES_AT_A_TIME = 1 << 16
NUM_SAMPLED = 1000
"""First lines that tell a file's columns."""


def json_columns(file: DataFile, work: Path) -> list[str]:
    """The names that the first objects of a file have; raises ``InputError`` if there are none."""
    path = local_file(file, work)
    require_file(path)
    names: dict[str, None] = {}
    with path.open("rb") as lines:
        for _, line in zip(range(NUM_SAMPLED), lines, strict=False):
            value, _ = _object(line)
            names.update(dict.fromkeys(value or ()))
    require(
        bool(names),
        f"{file.name} holds no JSON object in its first lines; expected one on each line",
    )
    return [*names, *(key for key in file.keys if key not in names)]


def scan_json(file: DataFile, columns: Sequence[str], work: Path) -> pl.LazyFrame:
    """Read columns of a file into ``work``, and scan what came of it, in the frame of a source.

    A column that an object lacks is missing there. Numbers are text: whole ones without a point.
    Lists are JSON.
    """
    in_file = [c for c in columns if c not in file.keys]
    key = zlib.crc32("\n".join([file.path, *in_file]).encode())
    target = work / f"json-{key:08x}.parquet"
    if not target.exists():
        _parse_into(target, local_file(file, work), in_file)
    frame = pl.scan_parquet(target, glob=False).with_columns(
        **{c: pl.lit(file.keys[c], pl.String) for c in columns if c in file.keys},
        file=pl.lit(file.name),
    )
    return frame.select(*columns, "file", "line", "reason", "text")


def _parse_into(target: Path, path: Path, columns: list[str]) -> None:
    """Write a file's lines as Parquet: the columns, ``line``, ``reason``, ``text``."""
    text = pa.string()
    schema = pa.schema(
        [
            *((name, text) for name in columns),
            ("line", pa.int64()),
            ("reason", text),
            ("text", text),
        ]
    )
    with path.open("rb") as lines, pq.ParquetWriter(target, schema, compression="lz4") as writer:
        for first_line, part in _parts(lines):
            parsed = [_object(line) for line in part]
            arrays = [
                *(_strings([_text(v.get(c)) if v else None for v, _ in parsed]) for c in columns),
                pa.array(range(first_line, first_line + len(part)), pa.int64()),
                pa.array([reason for _, reason in parsed], text),
                _strings(
                    [
                        line.decode(errors="replace").rstrip("\r\n") if reason else None
                        for line, (_, reason) in zip(part, parsed, strict=True)
                    ]
                ),
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _parts(lines: Any) -> Iterator[tuple[int, list[bytes]]]:
    first_line, part = 1, []
    for line in lines:
        part.append(line)
        if len(part) == LINES_AT_A_TIME:
            yield first_line, part
            first_line, part = first_line + len(part), []
    if part:
        yield first_line, part


def _object(line: bytes) -> tuple[dict[str, Any] | None, str | None]:
    """A line's object, or the reason why it is none."""
    if not line.strip():
        return None, "blank line"
    try:
        value = json.loads(line)
    except UnicodeDecodeError:
        return None, "not valid utf-8"
    except (ValueError, RecursionError):
        return None, "not valid JSON"
    return (value, None) if isinstance(value, dict) else (None, "not a JSON object")


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2.0**53:
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)


def _strings(values: list[str | None]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:  # JSON can write half of a pair of surrogates
        whole = [v if v is None else v.encode("utf-8", "replace").decode() for v in values]
        return pa.array(whole, pa.string())
