"""A folder of an object store: S3 and what speaks like it, Google Cloud Storage, Azure.

An object appears whole or not at all, and a list shows all that was written before it. There is no
renaming and no lock, and a folder is no more than what objects' names begin with. pyarrow's file
systems do the work; what they do not know goes through fsspec.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from greatmeta_dist.errors import InputError
from greatmeta_dist.files import written_atomically

PIECE = 1 << 23
"""Bytes of an upload or download in memory at a time."""
PATIENCE_S = 60.0
"""How long a store that does not answer is asked again, where much would be lost."""
RETRY_S = 2.0
URI_OPTIONS = {
    # Small objects are written by one request, in place of three for an upload in parts.
    "s3": "?allow_delayed_open=true",
    # Else it is asked for a quarter of an hour, in which no signal is received.
    "gs": "?retry_limit_seconds=20",
    "gcs": "?retry_limit_seconds=20",
}
"""pyarrow's own, by scheme."""
Answer = TypeVar("Answer")


def is_url(path: str | Path) -> bool:
    """Whether a path is on an object store, or elsewhere on a network."""
    return "://" in str(path)


@dataclass(frozen=True)
class Listed:
    """What a list says of an object."""

    size: int
    time_s: int
    """When it was written, by the store's clock, in whole seconds since 1970."""


@dataclass(frozen=True)
class ObjectFolder:
    """A folder of an object store; names are relative to it. What fails raises ``OSError``."""

    url: str

    def files(self, under: str = "") -> dict[str, Listed]:
        """All objects below a folder of it, or the object of that name; there may be none."""
        from pyarrow.fs import FileSelector, FileType

        system, root = self.system
        with _errors_of(self.url):
            found = system.get_file_info(
                FileSelector(f"{root}/{under}".rstrip("/"), recursive=True, allow_not_found=True)
            )
        objects = {
            info.path.removeprefix(f"{root}/"): Listed(info.size, int(info.mtime_ns // 10**9))
            for info in found
            if info.type == FileType.File
        }
        alone = self.listed(under) if under and not objects else None
        return objects if alone is None else {under: alone}

    def exists(self) -> bool:
        """Whether there is an object of this name, or any below it."""
        from pyarrow.fs import FileType

        system, root = self.system
        with _errors_of(self.url):
            return bool(system.get_file_info(root).type != FileType.NotFound)

    def listed(self, name: str) -> Listed | None:
        """What a list would say of one object; None where there is none."""
        from pyarrow.fs import FileType

        system, root = self.system
        with _errors_of(self.url):
            info = system.get_file_info(f"{root}/{name}")
        is_there = info.type == FileType.File
        return Listed(info.size, int(info.mtime_ns // 10**9)) if is_there else None

    def read(self, name: str) -> bytes:
        """An object's bytes; raises ``FileNotFoundError`` where there is none."""
        try:
            with self.open(name) as file, _errors_of(self.url):
                return bytes(file.read())
        except OSError as error:
            # One that was deleted since it was opened is reported as a fault of the connection.
            if self.listed(name) is None:
                raise FileNotFoundError(f"{self.url}/{name}") from error
            raise

    def open(self, name: str) -> Any:
        """An object as a pyarrow file that reads any part of it, and only that."""
        system, root = self.system
        with _errors_of(self.url):
            return system.open_input_file(f"{root}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Write an object."""
        system, root = self.system
        with _errors_of(self.url), system.open_output_stream(f"{root}/{name}") as target:
            target.write(content)

    def upload(self, path: Path, name: str) -> None:
        """Write a file's bytes into an object; none is left where that is interrupted."""
        system, root = self.system
        try:
            with (
                path.open("rb") as source,
                _errors_of(self.url),
                system.open_output_stream(f"{root}/{name}") as target,
            ):
                while piece := source.read(PIECE):
                    target.write(piece)
        except BaseException:
            # pyarrow ends a stream by closing it, which makes an object of what was written.
            with suppress(OSError):
                self.delete(name)
            raise

    def download(self, name: str, path: Path) -> None:
        """Write an object's bytes into a file, which appears whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            self.open(name) as source,
            written_atomically(path) as partial,
            partial.open("wb") as target,
            _errors_of(self.url),
        ):
            while piece := source.read(PIECE):
                target.write(piece)

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""
        system, root = self.system
        with _errors_of(self.url), suppress(FileNotFoundError):
            system.delete_file(f"{root}/{name}")

    def delete_all(self, under: str) -> None:
        """Delete all objects below a folder of it."""
        system, root = self.system
        with _errors_of(self.url), suppress(FileNotFoundError):
            system.delete_dir(f"{root}/{under}")

    def require_reachable(self) -> None:
        """Raise ``InputError`` where the store does not answer, or not to us."""
        try:
            self.files(".reachable")
        except OSError as error:
            raise InputError(str(error)) from error

    @cached_property
    def system(self) -> tuple[Any, str]:
        """pyarrow's file system, and this folder's path in it."""
        from pyarrow import ArrowInvalid
        from pyarrow.fs import FileSystem

        scheme, _, rest = self.url.partition("://")
        try:
            with _errors_of(self.url):
                system, path = FileSystem.from_uri(self.url + URI_OPTIONS.get(scheme, ""))
        except ArrowInvalid as error:
            if "nrecognized filesystem type" not in str(error):
                raise InputError(f"{self.url} is no folder of an object store: {error}") from error
            system, path = _by_fsspec(self.url, scheme), rest
        return system, path.rstrip("/")


def patiently(ask: Callable[[], Answer], *, patience_s: float = PATIENCE_S) -> Answer:
    """Ask a store again where it failed, until ``patience_s`` is over."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return ask()
        except FileNotFoundError:
            raise
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)


def _by_fsspec(url: str, scheme: str) -> Any:
    """A file system that pyarrow does not know itself."""
    import fsspec
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    try:
        return PyFileSystem(FSSpecHandler(fsspec.filesystem(scheme)))
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{url}: no file system for {scheme}:// is installed ({error}); take s3://, gs:// or "
            "abfs://, or install the fsspec package for it"
        ) from error


@contextmanager
def _errors_of(url: str) -> Iterator[None]:
    """Errors of pyarrow as ``OSError``, in a line that names the folder."""
    from pyarrow import ArrowException, ArrowInvalid

    try:
        yield
    except (FileNotFoundError, ArrowInvalid):
        raise
    except (OSError, ArrowException) as error:  # Azure's are of the second kind
        cause = " ".join(str(error).split())
        address = "the address (AWS_ENDPOINT_URL), " if url.startswith("s3:") else ""
        raise OSError(f"{url}: {cause}; check {address}the bucket and the credentials") from error
