"""Text files → columns of strings, every line accounted for.

A line either has exactly the expected fields or carries a ``reason``; nothing becomes null
silently. Frames have the named columns (String), ``file``, ``line`` (from 1), ``reason`` (null
where the line is well formed) and ``text`` (the line where it is malformed, else null).
"""

import codecs
import itertools
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from csv import Error as CsvError
from csv import reader
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from greatmeta_dist.config.data import MISSING_VALUES
from greatmeta_dist.data.text_files import UNDECODED, utf8_file
from greatmeta_dist.data.text_units import LinesFile, fetched, parse_files
from greatmeta_dist.errors import require

NUM_COMPARED = 10
"""First rows that tell whether the header lacks a name."""
UNIT_SEPARATOR = b"\x1f"
"""Stands in for separators of several characters, which CSV readers do not know."""
INTERNAL = ("file", "line", "reason", "text", "row", "fields", "is_malformed")
"""Columns that frames here add to a file's own; a file's column of such a name gets another."""


@dataclass(frozen=True)
class TextFormat:
    """How a delimited text file is written."""

    separator: str
    names: tuple[str, ...] | None = None
    """Column names in order; None reads them from the first line."""
    has_header: bool = True
    """Without names: whether the first line has them. Else columns are called 1, 2, …"""
    is_quoted: bool = False
    """Whether values may stand in double quotes, doubled inside."""
    is_escaped: bool = False
    """Whether a backslash in quotes takes the next character as it is."""
    encoding: str = "utf-8"


def is_missing(value: pl.Expr, spellings: Sequence[str] = MISSING_VALUES) -> pl.Expr:
    """Whether a stripped string stands for a missing value; upper and lower case are the same."""
    known = {"", *(spelling.lower() for spelling in spellings)}
    return value.fill_null("").str.to_lowercase().is_in(sorted(known))


def scan_text(path: str, fmt: TextFormat, work: Path) -> pl.LazyFrame:
    """Parse a delimited text file into ``work``, in units of lines, and scan what came of it.

    Raises ``InputError`` where the file is missing, empty, unreadable or no text.
    """
    file = _lines_file(path, fmt, work)
    parse_files([file])
    names = file.schema.names[:-2]  # without reason and text
    return (
        file.scan()
        .select(*names, "line", "reason", "text", file=pl.lit(Path(path).name))
        .select(*names, "file", "line", "reason", "text")
    )


def parse_texts(files: Mapping[str, TextFormat], work: Path) -> None:
    """Parse many text files at a time, by path; ``scan_text`` then finds them parsed."""
    encoding = next(iter(files.values())).encoding
    fetched(partial(utf8_file, encoding=encoding, work=work), list(files), _key(*files))
    parse_files([_lines_file(path, fmt, work) for path, fmt in files.items()])


def _key(*paths: str) -> str:
    return f"{zlib.crc32(chr(10).join(paths).encode()):08x}"


def _lines_file(path: str, fmt: TextFormat, work: Path) -> LinesFile:
    text_file = utf8_file(path, fmt.encoding, work)
    if fmt.names is None and not fmt.has_header:
        num_fields = len(_fields_of(_first_lines(text_file, 1)[0], fmt))
        fmt = replace(fmt, names=tuple(str(k + 1) for k in range(num_fields)))
    names = list(fmt.names) if fmt.names else split_header(text_file, fmt)
    names = [f"column {name}" if name in INTERNAL else name for name in names]
    text = pa.string()
    schema = pa.schema([*((name, text) for name in names), ("reason", text), ("text", text)])
    first_byte, first_line = _start_of_data(text_file, fmt)
    parse = partial(_parse, fmt=fmt, names=tuple(names))
    return LinesFile(
        text_file, work / f"parsed-{_key(path)}", first_byte, first_line, parse, schema
    )


def _start_of_data(text_file: Path, fmt: TextFormat) -> tuple[int, int]:
    """The first byte and the number of the first line behind the header."""
    with text_file.open("rb") as file:
        if fmt.names is None:
            file.readline()
            return file.tell(), 2
        has_mark = file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
        return len(codecs.BOM_UTF8) if has_mark else 0, 1


def _parse(part: bytes, *, fmt: TextFormat, names: Sequence[str]) -> pa.Table:
    """The named columns, ``reason`` and ``text`` of each line."""
    num_lines = part.count(b"\n") + (not part.endswith(b"\n"))
    table = _parse_plain(part, 1, num_lines, fmt, list(names))
    return _parse_any(part, 1, fmt, list(names)) if table is None else table


def _parse_plain(
    part: bytes, first_line: int, num_lines: int, fmt: TextFormat, names: list[str]
) -> pa.Table | None:
    """Lines without quotes, which a CSV reader can be trusted with; None where it cannot.

    A reader of CSV lets an open quote swallow the lines after it, and takes a lone carriage return
    for a line's end. Where there are neither, each line is a row, or one of the wrong number of
    fields, and the reader tells of these.
    """
    trusted = _trusted(part, fmt, len(names))
    if trusted is None:
        return None
    table, invalid = _read_csv(*trusted, names)
    numbers = np.array([row.number for row in invalid], np.int64)
    is_valid = np.ones(num_lines, bool)
    is_valid[numbers - 1] = False
    line = first_line + np.arange(num_lines)
    if len(table) != is_valid.sum() or _has_blank(table):
        return None
    nothing = pa.nulls(len(table), pa.string())
    valid = table.append_column("line", pa.array(line[is_valid]))
    valid = valid.append_column("reason", nothing).append_column("text", nothing)
    if not invalid:
        return valid
    texts = [row.text.replace(UNIT_SEPARATOR.decode(), fmt.separator) for row in invalid]
    reasons = [
        f"expected {len(names)} fields, found {row.actual_columns}"
        if text.strip()
        else "blank line"
        for text, row in zip(texts, invalid, strict=True)
    ]
    columns = {name: pa.nulls(len(invalid), pa.string()) for name in names}
    malformed = pa.table({**columns, "line": line[numbers - 1], "reason": reasons, "text": texts})
    return pa.concat_tables([valid, malformed.cast(valid.schema)]).sort_by("line")


def _trusted(part: bytes, fmt: TextFormat, num_fields: int) -> tuple[bytes, bytes] | None:
    """Lines that a CSV reader reads well, and their separator of one byte; None where it would not.

    It takes a mark of byte order off the first line, wherever a part starts.
    """
    separator = fmt.separator.encode()
    if (fmt.is_quoted and b'"' in part) or part.count(b"\r") != part.count(b"\r\n"):
        return None
    if num_fields == 1 or UNDECODED.encode() in part or part.startswith(codecs.BOM_UTF8):
        return None
    if len(separator) == 1:
        return part, separator
    if UNIT_SEPARATOR in part:
        return None
    return part.replace(separator, UNIT_SEPARATOR), UNIT_SEPARATOR


def _read_csv(
    part: bytes, separator: bytes, names: list[str]
) -> tuple[pa.Table, list[csv.InvalidRow]]:
    """The named columns of the lines of as many fields, and the other lines."""
    invalid: list[csv.InvalidRow] = []

    def note(row: csv.InvalidRow) -> str:
        invalid.append(row)
        return "skip"

    table = csv.read_csv(
        pa.BufferReader(part),
        csv.ReadOptions(use_threads=False, block_size=len(part) + 1, column_names=names),
        csv.ParseOptions(
            delimiter=separator.decode(),
            quote_char=False,
            double_quote=False,
            ignore_empty_lines=False,
            invalid_row_handler=note,
        ),
        csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        ),
    )
    return table, invalid


def _has_blank(table: pa.Table) -> bool:
    """Whether any row's fields are all blank: that is what the reader makes of a blank line."""
    is_blank = pa.array(np.ones(len(table), bool))
    for column in table.columns:
        trimmed = pc.utf8_trim_whitespace(column.filter(is_blank))
        is_blank = pc.replace_with_mask(is_blank, is_blank, pc.equal(trimmed, "").combine_chunks())
        if not pc.any(is_blank).as_py():
            return False
    return True


def _parse_any(part: bytes, first_line: int, fmt: TextFormat, names: list[str]) -> pa.Table:
    """Lines of any kind, split by patterns."""
    lines = part.decode().removesuffix("\n").split("\n")
    frame = pl.DataFrame({"text": lines}).with_columns(
        pl.col("text").str.strip_chars_end("\r"),
        line=pl.int_range(pl.len(), dtype=pl.Int64) + first_line,
    )
    fields = frame.with_columns(_fields(fmt, names)).unnest("fields")
    reason = _reason(fmt, len(names))
    parsed = fields.with_columns(reason=reason).select(
        *names,
        "line",
        "reason",
        text=pl.when(reason.is_not_null()).then(
            pl.col("text").str.replace_all(UNDECODED, "\ufffd", literal=True)
        ),
    )
    return parsed.to_arrow()


def _reason(fmt: TextFormat, num_fields: int) -> pl.Expr:
    """Why a parsed line is malformed; null where it is well formed."""
    text = pl.col("text")
    num_present = text.str.count_matches(re.escape(fmt.separator)) + 1
    return (
        pl.when(text.str.strip_chars() == "")
        .then(pl.lit("blank line"))
        .when(text.str.contains(UNDECODED, literal=True))
        .then(pl.lit(f"not valid {fmt.encoding}"))
        .when(pl.col("is_malformed"))
        .then(
            pl.when(num_present == num_fields)
            .then(pl.lit("malformed quotes"))
            .otherwise(pl.format(f"expected {num_fields} fields, found {{}}", num_present))
        )
    )


def _fields(fmt: TextFormat, names: list[str]) -> pl.Expr:
    """A struct ``fields`` of the named columns and ``is_malformed``."""
    text = pl.col("text")
    if len(names) == 1 and not fmt.is_quoted:
        return pl.struct(text.alias(names[0]), pl.lit(False).alias("is_malformed")).alias("fields")
    # One field more than there are columns: it is null on every line that is not too long.
    plain = text.str.split_exact(fmt.separator, len(names))
    columns = [plain.struct.field(f"field_{k}") for k in range(len(names))]
    is_malformed = columns[-1].is_null() | plain.struct.field(f"field_{len(names)}").is_not_null()
    if fmt.is_quoted:
        # Splitting is several times faster than the pattern, and most lines hold no quote.
        has_quote = text.str.contains('"', literal=True)
        groups = pl.when(has_quote).then(text).str.extract_groups(_quoted_pattern(fmt, len(names)))
        quoted = [_quoted_field(groups, k, fmt) for k in range(len(names))]
        columns = [
            pl.when(has_quote).then(q).otherwise(c) for q, c in zip(quoted, columns, strict=True)
        ]
        # Where the pattern does not match the whole line, all its groups are null.
        is_malformed = pl.when(has_quote).then(quoted[0].is_null()).otherwise(is_malformed)
    named = [c.alias(n) for c, n in zip(columns, names, strict=True)]
    return pl.struct(*named, is_malformed.alias("is_malformed")).alias("fields")


def _quoted_pattern(fmt: TextFormat, num_fields: int) -> str:
    """A pattern of a whole line, with two groups a field: what is in quotes, what stands bare.

    A bare value may hold quotes, but not start with one.
    """
    separator = re.escape(fmt.separator)
    inside = r'[^"\\]|\\.|""' if fmt.is_escaped else r'[^"]|""'
    # Some tools put a space after each separator.
    space = "" if fmt.separator == " " else " *"
    one = rf'(?:{space}"((?:{inside})*)"{space}|((?:[^"{separator}][^{separator}]*)?))'
    return "^" + separator.join([one] * num_fields) + "$"


def _quoted_field(groups: pl.Expr, k: int, fmt: TextFormat) -> pl.Expr:
    """Field k of a matched line, without its quotes and escapes; groups count from 1."""
    inside = groups.struct.field(str(2 * k + 1)).str.replace_all('""', '"', literal=True)
    if fmt.is_escaped:
        inside = inside.str.replace_all(r"\\(.)", "$1")
    return pl.coalesce(inside, groups.struct.field(str(2 * k + 2)))


def split_header(path: Path, fmt: TextFormat) -> list[str]:
    """Column names on a UTF-8 file's first line, split as its rows are.

    A column without a name, and all columns that share one, get their number: ``(column 1)``,
    ``note (column 5)``. So nobody takes one for the other, and other columns are read all the same.
    Where every row has one field more than the header has names, as R writes row names, the first
    column has no name; the last, where it is empty throughout. Raises ``InputError`` where the line
    is blank, holds a zero byte, or ends as lines no longer do.
    """
    header, *rows = _first_lines(path, 1 + NUM_COMPARED)
    require(
        bool(header.strip()),
        f"{path.name} starts with '{header[:80]}'; expected a line of column names separated by "
        f"'{fmt.separator}'",
    )
    require(
        "\r" not in header,
        f"{path.name} ends its lines with lone carriage returns; convert it to lines that end with "
        "a line feed",
    )
    require(
        "\0" not in header,
        f"{path.name} has a zero byte in its line of column names; expected text; remove that byte",
    )
    names = [name.strip().strip('"') for name in _fields_of(header, fmt)]
    fields = [_fields_of(row, fmt) for row in rows if row.strip()]
    if fields and len(names) > 1 and all(len(values) == len(names) + 1 for values in fields):
        is_last_empty = not any(values[-1].strip() for values in fields)
        names = [*names, ""] if is_last_empty else ["", *names]
    count = Counter(names)
    return [
        name if name and count[name] == 1 else f"{name} (column {k + 1})".strip()
        for k, name in enumerate(names)
    ]


def _first_lines(path: Path, number: int) -> list[str]:
    with path.open(encoding="utf-8", newline="\n") as file:
        lines = [line.rstrip("\r\n") for line in itertools.islice(file, number)]
    return [lines[0].removeprefix("\ufeff"), *lines[1:]]


def _fields_of(line: str, fmt: TextFormat) -> list[str]:
    """A line's fields; one with open quotes is split at every separator."""
    if fmt.is_quoted and len(fmt.separator) == 1 and line.count('"') % 2 == 0:
        escape = "\\" if fmt.is_escaped else None
        try:
            rows = reader([line], delimiter=fmt.separator, escapechar=escape, skipinitialspace=True)
            return next(rows, [])
        except CsvError:  # such as a field that is too long
            pass
    return line.split(fmt.separator)
