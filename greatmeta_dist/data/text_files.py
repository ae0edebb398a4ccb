"""Text files at a path or URL, perhaps packed → files of valid UTF-8 on this disk."""

import codecs
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import fsspec
import pyarrow as pa

from greatmeta_dist.errors import InputError, require
from greatmeta_dist.files import written_atomically

CHUNK_BYTES = 1 << 24
PACKED = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zst", ".zip": "zip"}
"""How names of packed files end, and what fsspec calls that. It does not know ``zst``."""
MAX_ZERO_SHARE = 0.05
"""Of the first bytes of a text, which may hold one by mistake. UTF-16 has a zero byte in every
character of ASCII, and binary files have many."""
UNDECODED = "\ufdd0"
"""Where bytes could not be decoded. It is no character, so that no text holds it; the usual
replacement character is one, and texts that went through other programs do. In the rejects they
stand as that character."""
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


def local_copy(path: str, work: Path) -> Path:
    """The file at a path or URL, on this disk; compressed and remote files are copied to ``work``.

    Raises ``InputError`` where it cannot be read.
    """
    if "://" not in path and not path.lower().endswith(tuple(PACKED)):
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
        raise InputError(f"cannot read {path}: {_fault(path, error)}") from error
    return target


def _fault(path: str, error: Exception) -> str:
    """Why a file could not be copied, in our words where it is the file's fault."""
    if "://" in path:
        return str(error).partition("\n")[0]
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror or "it cannot be opened"
    return "it is cut off or damaged, or is not packed as its name says; download or pack it again"


def first_line(path: str) -> str:
    """A text file's first line, without its end; of a very long one, the begin.

    Raises ``InputError`` where it cannot be read.
    """
    try:
        with open_unpacked(path) as source:
            head = source.read(1 << 16)
    except Exception as error:  # as above
        raise InputError(f"cannot read {path}: {_fault(path, error)}") from error
    text = head.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
    return text.splitlines()[0].strip() if text else ""


@contextmanager
def open_unpacked(path: str) -> Iterator[IO[bytes]]:
    """The bytes of a file at a path or URL, unpacked where its name says that it is packed."""
    kind = PACKED.get(Path(path.lower()).suffix)
    if kind == "zst":
        # Arrow unpacks this kind without a further package.
        with fsspec.open(path, "rb") as packed:
            yield pa.CompressedInputStream(pa.PythonFile(packed, "r"), "zstd")
        return
    with fsspec.open(path, "rb", compression=kind) as source:
        yield source


def utf8_file(path: str, encoding: str, work: Path) -> Path:
    """A text file at a path or URL as one of UTF-8 on this disk.

    Raises ``InputError``, with the path as it was given, where that cannot be.
    """
    local = local_copy(path, work)
    try:
        return _as_utf8(local, encoding, work)
    except InputError as error:
        raise InputError(str(error).replace(str(local), path)) from error


def _as_utf8(path: Path, encoding: str, work: Path) -> Path:
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
    num_zeros = start.count(b"\0")
    require(
        num_zeros <= MAX_ZERO_SHARE * len(start),
        f"{path} is no text (it holds zero bytes); expected lines of text",
    )


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
