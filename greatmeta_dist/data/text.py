"""Text files → columns of strings, every line accounted for.

A line either has exactly the expected fields or carries a ``reason``; nothing becomes null
silently. Frames have the named columns (String), ``file``, ``line`` (1-based), ``reason`` (null
where good) and ``text`` (the line, where bad).
"""

import codecs
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec
import polars as pl

from greatmeta_dist.errors import InputError, require

CHUNK_BYTES = 1 << 24
INTERNAL = ("file", "line", "reason", "text", "row", "fields", "is_malformed")
"""What frames here call columns of their own; a file's column of that name gets another."""
MARKS = {
    b"\x1f\x8b": "gzip data; end its name in .gz, or unpack it",
    b"BZh": "bzip2 data; end its name in .bz2, or unpack it",
    b"\xfd7zXZ\0": "xz data; end its name in .xz, or unpack it",
    b"\x28\xb5\x2f\xfd": "zstandard data; end its name in .zst, or unpack it",
    b"PK\x03\x04": "a zip archive; end its name in .zip, or unpack it",
    b"PAR1": "Parquet; take data=parquet",
    codecs.BOM_UTF16_LE: "UTF-16 text; convert it to UTF-8",
    codecs.BOM_UTF16_BE: "UTF-16 text; convert it to UTF-8",
}
"""How files start that are no lines of bytes, and what they are."""
MISSING = ("", "null", "\\n", "nan", "-nan")
"""What files write, in letters of either case, where there is no value."""


@dataclass(frozen=True)
class TextFormat:
    """How a delimited text file is written."""

    separator: str
    names: tuple[str, ...] | None = None
    """Column names in order; None reads them from the first line."""
    is_quoted: bool = False
    """Whether values may stand in double quotes, doubled inside."""
    is_escaped: bool = False
    """Whether a backslash in quotes takes the next character as it is."""
    encoding: str = "utf-8"


def is_missing(value: pl.Expr) -> pl.Expr:
    """Whether a stripped string says that there is no value."""
    return value.fill_null("").str.to_lowercase().is_in(MISSING)


def local_copy(path: str, work: Path) -> Path:
    """The file at a path or URL, on this disk; compressed and remote files are fetched."""
    if "://" not in path and not path.endswith((".gz", ".bz2", ".xz", ".zst", ".zip")):
        return Path(path)
    require(
        not path.endswith(".zst") or "zstd" in fsspec.available_compressions(),
        f"cannot read {path} without zstandard; pip install zstandard, or unpack the file",
    )
    target = work / f"fetched-{zlib.crc32(path.encode()):08x}-{Path(path).name}"
    try:
        with fsspec.open(path, "rb", compression="infer") as source, target.open("wb") as sink:
            while chunk := source.read(CHUNK_BYTES):
                sink.write(chunk)
    except Exception as error:  # every decompressor has its own
        raise InputError(f"cannot read {path}: {error}") from error
    return target


def scan_text(path: str, fmt: TextFormat, work: Path) -> pl.LazyFrame:
    """Lazily read a delimited text file; raises ``InputError`` if unreadable or empty."""
    text = as_utf8(local_copy(path, work), fmt.encoding, work)
    names = list(fmt.names) if fmt.names else split_header(text, fmt)
    names = [f"column {name}" if name in INTERNAL else name for name in names]
    lines = pl.scan_lines(text, name="text", row_index_name="row", glob=False).with_columns(
        pl.col("text").str.strip_chars_end("\r"),
        file=pl.lit(Path(path).name),
        line=pl.col("row").cast(pl.Int64) + 1,
    )
    if fmt.names is None:
        lines = lines.filter(pl.col("row") > 0)
    parsed = lines.with_columns(_fields(fmt, names)).unnest("fields")
    found = pl.col("text").str.count_matches(re.escape(fmt.separator)) + 1
    reason = (
        pl.when(pl.col("text").str.strip_chars() == "")
        .then(pl.lit("blank line"))
        .when(pl.col("text").str.contains("\ufffd", literal=True))
        .then(pl.lit(f"not valid {fmt.encoding}"))
        .when(pl.col("is_malformed"))
        .then(
            pl.when(found == len(names))
            .then(pl.lit("malformed quotes"))
            .otherwise(pl.format(f"expected {len(names)} fields, found {{}}", found))
        )
    )
    return parsed.with_columns(reason=reason).select(
        *names, "file", "line", "reason", text=pl.when(reason.is_not_null()).then(pl.col("text"))
    )


def _fields(fmt: TextFormat, names: list[str]) -> pl.Expr:
    """A struct ``fields`` of the named columns and ``is_malformed``."""
    text = pl.col("text")
    if len(names) == 1 and not fmt.is_quoted:
        return pl.struct(text.alias(names[0]), pl.lit(False).alias("is_malformed")).alias("fields")
    plain = text.str.split_exact(fmt.separator, len(names))
    columns = [plain.struct.field(f"field_{k}") for k in range(len(names))]
    is_malformed = columns[-1].is_null() | plain.struct.field(f"field_{len(names)}").is_not_null()
    if fmt.is_quoted:
        has_quote = text.str.contains('"', literal=True)
        groups = pl.when(has_quote).then(text).str.extract_groups(_quoted_pattern(fmt, len(names)))
        quoted = [_quoted_field(groups, k, fmt) for k in range(len(names))]
        columns = [
            pl.when(has_quote).then(q).otherwise(c) for q, c in zip(quoted, columns, strict=True)
        ]
        is_malformed = pl.when(has_quote).then(quoted[0].is_null()).otherwise(is_malformed)
    named = [c.alias(n) for c, n in zip(columns, names, strict=True)]
    return pl.struct(*named, is_malformed.alias("is_malformed")).alias("fields")


def _quoted_pattern(fmt: TextFormat, num_fields: int) -> str:
    separator = re.escape(fmt.separator)
    inside = r'[^"\\]|\\.|""' if fmt.is_escaped else r'[^"]|""'
    one = rf'(?:"((?:{inside})*)"|((?:[^"{separator}][^{separator}]*)?))'
    return "^" + separator.join([one] * num_fields) + "$"


def _quoted_field(groups: pl.Expr, k: int, fmt: TextFormat) -> pl.Expr:
    inside = groups.struct.field(str(2 * k + 1)).str.replace_all('""', '"', literal=True)
    if fmt.is_escaped:
        inside = inside.str.replace_all(r"\\(.)", "$1")
    return pl.coalesce(inside, groups.struct.field(str(2 * k + 2)))


def split_header(path: Path, fmt: TextFormat) -> list[str]:
    """Column names on a file's first line."""
    with path.open(encoding="utf-8") as file:
        header = file.readline().rstrip("\r\n").removeprefix("\ufeff")
    names = [name.strip().strip('"') for name in header.split(fmt.separator)]
    require(
        bool(header.strip()) and len(set(names)) == len(names) and all(names),
        f"{path.name} starts with '{header[:80]}'; expected a line of distinct column names "
        f"separated by '{fmt.separator}'",
    )
    return names


def as_utf8(path: Path, encoding: str, work: Path) -> Path:
    """The file itself if it is valid UTF-8, else a copy that is, bad bytes as U+FFFD."""
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        near = [p.name for p in folder.glob("*")][:8] if folder.is_dir() else []
        there = f"; the folder holds {', '.join(sorted(near))}" if near else ""
        what = "is a folder; name the file" if path.is_dir() else "does not exist; check the path"
        raise InputError(f"{path} {what}{there}")
    try:
        require(path.stat().st_size > 0, f"{path} is empty; expected rows of text")
        _require_text(path)
        if encoding == "utf-8" and _is_utf8(path):
            return path
        copy = work / f"utf8-{zlib.crc32(str(path).encode()):08x}-{path.name}"
        decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        with path.open("rb") as source, copy.open("wb") as sink:
            while chunk := source.read(CHUNK_BYTES):
                sink.write(decoder.decode(chunk).encode())
            sink.write(decoder.decode(b"", final=True).encode())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return copy


def _require_text(path: Path) -> None:
    """Raise ``InputError`` where a file starts as no text of bytes does."""
    with path.open("rb") as file:
        start = file.read(4096)
    kind = next((kind for mark, kind in MARKS.items() if start.startswith(mark)), None)
    require(kind is None, f"{path} is {kind}")
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


def scan_columns(path: str, columns: Sequence[str], work: Path) -> pl.LazyFrame:
    """The same frame from a Parquet file; ``line`` counts its rows from 1."""
    file = local_copy(path, work)
    require(file.exists(), f"{path} does not exist; check the path")
    files = sorted(file.glob("*.parquet")) if file.is_dir() else [file]
    require(bool(files), f"{path} holds no .parquet file; name a file or a folder of them")
    try:
        schema = pl.scan_parquet(files, glob=False).collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error
    missing = [c for c in columns if c not in schema]
    require(
        not missing,
        f"{path} has no column {', '.join(missing)}; it has {', '.join(schema.names())}",
    )
    nested = [c for c in columns if isinstance(schema[c], pl.Struct)]
    require(not nested, f"{path}: column {''.join(nested[:1])} is a struct; expected plain values")
    frame = pl.scan_parquet(files, glob=False).select(columns).with_row_index("row ")
    values = [_text(c, schema[c]) for c in columns]
    return frame.select(
        *values,
        file=pl.lit(Path(path).name),
        line=pl.col("row ").cast(pl.Int64) + 1,
        reason=pl.lit(None, pl.String),
        text=pl.lit(None, pl.String),
    )


def _text(column: str, kind: pl.DataType) -> pl.Expr:
    """A Parquet column as strings: lists joined by ``|``, dates as seconds since 1970."""
    value = pl.col(column)
    if isinstance(kind, pl.List):
        return value.list.eval(pl.element().cast(pl.String)).list.join("|").alias(column)
    if kind.is_temporal() and kind != pl.Duration and kind != pl.Time:
        value = value.cast(pl.Datetime("us")).dt.epoch("us") / 1e6
    return value.cast(pl.String)
