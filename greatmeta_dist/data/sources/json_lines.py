"""JSON Lines → columns of strings, every line accounted for, as ``data/text.py`` does for CSV."""

import json
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from greatmeta_dist.data.sources.folders import DataFile, local_file
from greatmeta_dist.data.text import local_copy, require_file
from greatmeta_dist.data.text_units import LinesFile, fetched, parse_files
from greatmeta_dist.errors import require

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
    """Parse columns of a file into ``work``, in units of lines, and scan what came of it.

    The frame is that of a source. A column that an object lacks is missing there. Numbers are text:
    whole ones without a point. Lists are JSON.
    """
    lines = _lines_file(file, columns, work)
    parse_files([lines])
    frame = lines.scan().with_columns(
        **{c: pl.lit(file.keys[c], pl.String) for c in columns if c in file.keys},
        file=pl.lit(file.name),
    )
    return frame.select(*columns, "file", "line", "reason", "text")


def parse_json(files: Sequence[DataFile], columns: Sequence[str], work: Path) -> None:
    """Parse many files at a time; ``scan_json`` then finds them parsed."""
    key = zlib.crc32("\n".join(file.path for file in files).encode())
    fetched(partial(local_copy, work=work), [file.path for file in files], f"{key:08x}")
    parse_files([_lines_file(file, columns, work) for file in files])


def _lines_file(file: DataFile, columns: Sequence[str], work: Path) -> LinesFile:
    in_file = [c for c in columns if c not in file.keys]
    key = zlib.crc32("\n".join([file.path, *in_file]).encode())
    text = pa.string()
    schema = pa.schema([*((name, text) for name in in_file), ("reason", text), ("text", text)])
    parse = partial(_parse, columns=tuple(in_file))
    return LinesFile(local_file(file, work), work / f"json-{key:08x}", 0, 1, parse, schema)


def _parse(part: bytes, *, columns: Sequence[str]) -> pa.Table:
    """The columns, ``reason`` and ``text`` of each line."""
    lines = part.removesuffix(b"\n").split(b"\n")
    parsed = [_object(line) for line in lines]
    columns_of = {
        c: _strings([_text(value.get(c)) if value else None for value, _ in parsed])
        for c in columns
    }
    text = [
        line.decode(errors="replace").rstrip("\r\n") if reason else None
        for line, (_, reason) in zip(lines, parsed, strict=True)
    ]
    reasons = pa.array([reason for _, reason in parsed], pa.string())
    return pa.table({**columns_of, "reason": reasons, "text": _strings(text)})


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
