"""Text files → columns of strings, every line accounted for.

A line either has exactly the expected fields or carries a ``reason``; nothing becomes null
silently. Frames have the named columns (String), ``file``, ``line`` (from 1), ``reason`` (null
where the line is well formed) and ``text`` (the line where it is malformed, else null).
"""

import codecs
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from csv import reader
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO

import fsspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from greatmeta_dist.config.data import MISSING_VALUES
from greatmeta_dist.data.text_units import LinesFile, fetched, parse_files
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.files import written_atomically

CHUNK_BYTES = 1 << 24
UNIT_SEPARATOR = b"\x1f"
"""Stands in for separators of several characters, which CSV readers do not know."""
UNDECODED = "\ufdd0"
"""Where bytes could not be decoded. It is no character, so that no text holds it; the usual
replacement character is one, and texts that went through other programs do. In the rejects they
stand as that character."""
INTERNAL = ("file", "line", "reason", "text", "row", "fields", "is_malformed")
"""Columns that frames here add to a file's own; a file's column of such a name gets another."""
FILE_SIGNATURES = {
    b"\x1f\x8b": "gzip data; end its name in .gz, or unpack it",
    b"BZh": "bzip2 data; end its name in .bz2, or unpack it",
    b"\xfd7zXZ\0": "xz data; end its name in .xz, or unpack it",
    b"\x28\xb5\x2f\xfd": "zstandard data; end its name in .zst, or unpack it",
    b"PK\x03\x04": "a zip archive; end its name in .zip, or unpack it",
    b"PAR1": "Parquet; take data=parquet",
    codecs.BOM_UTF16_LE: "UTF-16 text; convert it to UTF-8",
    codecs.BOM_UTF16_BE: "UTF-16 text; convert it to UTF-8",
}
"""First bytes of files that are no text of one byte or more a character, and what these are."""


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


def local_copy(path: str, work: Path) -> Path:
    """The file at a path or URL, on this disk; compressed and remote files are copied to ``work``.

    Raises ``InputError`` where it cannot be read.
    """
    if "://" not in path and not path.endswith((".gz", ".bz2", ".xz", ".zst", ".zip")):
        return Path(path)
    # The hash of the whole path tells files of one name in different folders apart.
    target = work / f"fetched-{zlib.crc32(path.encode()):08x}-{Path(path).name}"
    if target.exists():
        return target
    try:
        with (
            written_atomically(target) as unfinished,
            open_unpacked(path) as source,
            unfinished.open("wb") as sink,
        ):
            while chunk := source.read(CHUNK_BYTES):
                sink.write(chunk)
    except Exception as error:  # every decompressor and every file system raises its own
        raise InputError(f"cannot read {path}: {error}") from error
    return target


@contextmanager
def open_unpacked(path: str) -> Iterator[IO[bytes]]:
    """The bytes of a file at a path or URL, unpacked where its name says that it is packed."""
    if path.endswith(".zst"):
        # Arrow unpacks this kind without a further package.
        with fsspec.open(path, "rb") as packed:
            yield pa.CompressedInputStream(pa.PythonFile(packed, "r"), "zstd")
        return
    with fsspec.open(path, "rb", compression="infer") as source:
        yield source


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
    fetched(partial(_as_local_utf8, encoding=encoding, work=work), list(files), _key(*files))
    parse_files([_lines_file(path, fmt, work) for path, fmt in files.items()])


def _as_local_utf8(path: str, *, encoding: str, work: Path) -> Path:
    return as_utf8(local_copy(path, work), encoding, work)


def _key(*paths: str) -> str:
    return f"{zlib.crc32(chr(10).join(paths).encode()):08x}"


def _lines_file(path: str, fmt: TextFormat, work: Path) -> LinesFile:
    text_file = _as_local_utf8(path, encoding=fmt.encoding, work=work)
    if fmt.names is None and not fmt.has_header:
        num_fields = len(_fields_of(_first_line(text_file), fmt))
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
    separator = fmt.separator.encode()
    if (fmt.is_quoted and b'"' in part) or part.count(b"\r") != part.count(b"\r\n"):
        return None
    if len(separator) > 1:
        if UNIT_SEPARATOR in part:
            return None
        part, separator = part.replace(separator, UNIT_SEPARATOR), UNIT_SEPARATOR
    # The reader takes a mark of byte order off the first line, wherever a part starts.
    if len(names) == 1 or UNDECODED.encode() in part or part.startswith(codecs.BOM_UTF8):
        return None
    invalid: list[tuple[int, str, int]] = []

    def note(row: csv.InvalidRow) -> str:
        invalid.append((row.number, row.text, row.actual_columns))
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
    numbers = np.array([number for number, _, _ in invalid], np.int64)
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
    texts = [text.replace(UNIT_SEPARATOR.decode(), fmt.separator) for _, text, _ in invalid]
    reasons = [
        f"expected {len(names)} fields, found {num_fields}" if text.strip() else "blank line"
        for text, (_, _, num_fields) in zip(texts, invalid, strict=True)
    ]
    columns = {name: pa.nulls(len(invalid), pa.string()) for name in names}
    malformed = pa.table({**columns, "line": line[numbers - 1], "reason": reasons, "text": texts})
    return pa.concat_tables([valid, malformed.cast(valid.schema)]).sort_by("line")


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
    one = rf'(?:"((?:{inside})*)"|((?:[^"{separator}][^{separator}]*)?))'
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
    Raises ``InputError`` where the line is blank.
    """
    header = _first_line(path)
    require(
        bool(header.strip()),
        f"{path.name} starts with '{header[:80]}'; expected a line of column names separated by "
        f"'{fmt.separator}'",
    )
    names = [name.strip().strip('"') for name in _fields_of(header, fmt)]
    count = Counter(names)
    return [
        name if name and count[name] == 1 else f"{name} (column {k + 1})".strip()
        for k, name in enumerate(names)
    ]


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8", newline="\n") as file:
        return file.readline().rstrip("\r\n").removeprefix("\ufeff")


def _fields_of(line: str, fmt: TextFormat) -> list[str]:
    """A line's fields; one with open quotes is split at every separator."""
    if fmt.is_quoted and len(fmt.separator) == 1 and line.count('"') % 2 == 0:
        escape = "\\" if fmt.is_escaped else None
        return next(reader([line], delimiter=fmt.separator, escapechar=escape), [])
    return line.split(fmt.separator)


def as_utf8(path: Path, encoding: str, work: Path) -> Path:
    """The file itself if it is valid UTF-8, else a copy in ``work`` that is.

    Bad bytes are ``UNDECODED`` there. Raises ``InputError`` where the file is missing, empty,
    unreadable or no text.
    """
    require_file(path)
    try:
        require(path.stat().st_size > 0, f"{path} is empty; expected rows of text")
        _require_text(path)
        if encoding == "utf-8" and _is_utf8(path):
            return path
        # Polars reads UTF-8 alone, and stops at the first bad byte. In a copy bad bytes are
        # marked, so that only the lines with one are rejected.
        copy = work / f"utf8-{zlib.crc32(str(path).encode()):08x}-{path.name}"
        # Incremental, since a character of several bytes may lie across two chunks.
        codecs.register_error("mark undecoded", _mark)
        decoder = codecs.getincrementaldecoder(encoding)(errors="mark undecoded")
        if copy.exists():
            return copy
        with (
            written_atomically(copy) as unfinished,
            path.open("rb") as source,
            unfinished.open("wb") as sink,
        ):
            while chunk := source.read(CHUNK_BYTES):
                sink.write(decoder.decode(chunk).encode())
            sink.write(decoder.decode(b"", final=True).encode())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return copy


def _mark(error: UnicodeError) -> tuple[str, int]:
    """Put ``UNDECODED`` in the place of what cannot be decoded, and go on behind it."""
    assert isinstance(error, UnicodeDecodeError)
    return UNDECODED, error.end


def require_file(path: Path) -> None:
    """Raise ``InputError`` where there is no such file, with what lies there instead."""
    if path.is_file():
        return
    folder = path if path.is_dir() else path.parent
    names = [p.name for p in folder.glob("*")][:8] if folder.is_dir() else []
    listing = f"; the folder holds {', '.join(sorted(names))}" if names else ""
    fault = "is a folder; name the file" if path.is_dir() else "does not exist; check the path"
    raise InputError(f"{path} {fault}{listing}")


def _require_text(path: Path) -> None:
    """Raise ``InputError`` where a file starts as no text does.

    Without this a packed or binary file would be read as one log of bad lines, and the message
    would be about its first line instead of about the file.
    """
    with path.open("rb") as file:
        start = file.read(4096)
    kind = next((kind for mark, kind in FILE_SIGNATURES.items() if start.startswith(mark)), None)
    require(kind is None, f"{path} is {kind}")
    # Text in UTF-8 or Latin-1 has no zero byte. UTF-16 without its mark has one in every character
    # of ASCII, and most binary files have some near the start.
    require(b"\0" not in start, f"{path} is no text (it holds zero bytes); expected lines of text")


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while chunk := file.read(CHUNK_BYTES):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True
