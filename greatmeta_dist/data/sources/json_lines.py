"""JSON Lines → columns, every line accounted for, as ``data/text.py`` does for CSV.

A file is read by parts of whole lines. Arrow's reader parses a part of which every line is an
object of the types that the first lines have; any other part is parsed line by line.
"""

import itertools
import json
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.json as arrow_json

from greatmeta_dist.data.sources.base import Role
from greatmeta_dist.data.sources.folders import DataFile, local_file
from greatmeta_dist.data.text_files import local_copy, require_file
from greatmeta_dist.data.text_units import LinesFile, fetched, parse_files
from greatmeta_dist.data.values import as_text
from greatmeta_dist.errors import require

NUM_SAMPLED = 1000
"""First lines that tell a file's columns and their types."""
TEXT, LIST = pa.string(), pa.list_(pa.string())
ENDS = re.compile(rb"\}[ \t\r]*\n[ \t]*\{")
"""Between two lines that each are an object, as a whole."""


def json_columns(file: DataFile, work: Path) -> list[str]:
    """The names that the first objects of a file have; raises ``InputError`` if there are none."""
    names = dict.fromkeys(itertools.chain.from_iterable(_sample(file, work)))
    require(
        bool(names),
        f"{file.name} holds no JSON object in its first lines; expected one on each line (an array "
        "of objects becomes such a file by: jq -c '.[]')",
    )
    return [*names, *(key for key in file.keys if key not in names)]


def scan_json(
    file: DataFile, roles: Mapping[str, Role], lists: Collection[str], work: Path
) -> pl.LazyFrame:
    """Parse columns of a file into ``work``, in units of lines, and scan what came of it.

    The frame is that of a source. Columns in ``lists`` are lists of text, all others text: whole
    numbers without a point, and what is no plain value as JSON. A column that an object lacks is
    missing there.
    """
    lines = _lines_file(file, roles, lists, work)
    parse_files([lines])
    frame = lines.scan().with_columns(
        **{c: pl.lit(file.keys[c], pl.String) for c in roles if c in file.keys},
        file=pl.lit(file.name),
    )
    return frame.select(*roles, "file", "line", "reason", "text")


def parse_json(
    files: Sequence[DataFile], roles: Mapping[str, Role], lists: Collection[str], work: Path
) -> None:
    """Parse many files at a time; ``scan_json`` then finds them parsed."""
    key = zlib.crc32("\n".join(file.path for file in files).encode())
    fetched(partial(local_copy, work=work), [file.path for file in files], f"{key:08x}")
    parse_files([_lines_file(file, roles, lists, work) for file in files])


def _lines_file(
    file: DataFile, roles: Mapping[str, Role], lists: Collection[str], work: Path
) -> LinesFile:
    kinds = {c: LIST if c in lists else TEXT for c in roles if c not in file.keys}
    key = zlib.crc32("\n".join([file.path, *map(repr, kinds.items())]).encode())
    schema = pa.schema([*kinds.items(), ("reason", TEXT), ("text", TEXT)])
    types = _types(_sample(file, work), kinds, roles)
    parse = partial(_parse, kinds=kinds, types=types)
    return LinesFile(local_file(file, work), work / f"json-{key:08x}", 0, 1, parse, schema)


def _parse(
    part: bytes, *, kinds: dict[str, pa.DataType], types: dict[str, pa.DataType]
) -> pa.Table:
    """The columns, ``reason`` and ``text`` of each line."""
    table = _parse_plain(part, kinds, types)
    return _parse_any(part, kinds) if table is None else table


def list_columns(files: list[DataFile], roles: Mapping[str, Role], work: Path) -> set[str]:
    """The features that are lists in the first lines of the first files."""
    features = [c for c, role in roles.items() if role == "feature"]
    if not features:
        return set()
    objects = (value for file in files[:8] for value in _sample(file, work))
    return {c for value in objects for c in features if isinstance(value.get(c), list)}


def _sample(file: DataFile, work: Path) -> list[dict[str, Any]]:
    path = local_file(file, work)
    require_file(path)
    with path.open("rb") as lines:
        parsed = [_object(line)[0] for line in itertools.islice(lines, NUM_SAMPLED)]
    return [value for value in parsed if value is not None]


def _types(
    sample: list[dict[str, Any]], kinds: dict[str, pa.DataType], roles: Mapping[str, Role]
) -> dict[str, pa.DataType]:
    """Each column's type for Arrow's reader; a part that has other ones is parsed line by line."""
    types = {}
    for name, kind in kinds.items():
        found = {type(v.get(name)) for v in sample} - {type(None)}
        types[name] = kind
        if found == {bool}:
            types[name] = pa.bool_()
        elif found == {int} and roles[name] == "id":
            types[name] = pa.int64()
        elif found and found <= {int, float}:
            types[name] = pa.float64()
    return types


def _parse_plain(
    part: bytes, kinds: dict[str, pa.DataType], types: dict[str, pa.DataType]
) -> pa.Table | None:
    """Lines that are one object each, of those types; None where any of them is something else."""
    num_lines = part.count(b"\n") + (not part.endswith(b"\n"))
    # The reader takes objects wherever they stand. So each line must end as an object does, and
    # the next one start as one does; what is wrong in between it finds by itself.
    if not types or len(ENDS.findall(part)) != num_lines - 1:
        return None
    try:
        part.decode()
        table = arrow_json.read_json(
            pa.BufferReader(part),
            arrow_json.ReadOptions(use_threads=False, block_size=len(part) + 1),
            arrow_json.ParseOptions(pa.schema(list(types.items())), False, "ignore"),
        )
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    if len(table) != num_lines:
        return None
    frame = pl.DataFrame(pl.from_arrow(table))
    texts = [
        pl.col(c) if kinds[c] == LIST else as_text(pl.col(c), frame.schema[c]).alias(c)
        for c in kinds
    ]
    nothing = pl.lit(None, pl.String)
    return frame.select(*texts, reason=nothing, text=nothing).to_arrow()


def _parse_any(part: bytes, kinds: dict[str, pa.DataType]) -> pa.Table:
    lines = part.removesuffix(b"\n").split(b"\n")
    parsed = [_object(line) for line in lines]
    columns = {}
    for name, kind in kinds.items():
        convert = _texts if kind == LIST else _text
        columns[name] = _array([convert(v.get(name)) if v else None for v, _ in parsed], kind)
    columns["reason"] = pa.array([reason for _, reason in parsed], pa.string())
    columns["text"] = pa.array(
        [
            line.decode(errors="replace").rstrip("\r") if reason else None
            for line, (_, reason) in zip(lines, parsed, strict=True)
        ],
        pa.string(),
    )
    return pa.table(columns)


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


def _texts(value: Any) -> list[str] | None:
    """The values of a list, and of lists in it; a plain value is a list of one."""
    if not isinstance(value, list):
        return None if value is None else [_text(value) or ""]
    inner = [_texts(v) if isinstance(v, list) else [_text(v)] for v in value]
    return [text for texts in inner for text in texts or () if text is not None]


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:  # JSON can write half of a pair of surrogates
        return pa.array([_without_halves(value) for value in values], kind)


def _without_halves(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_halves(v) for v in value]
    return value if value is None else value.encode("utf-8", "replace").decode()
