"""A machine's copy of a folder on an object store: what programs read and write in its place.

A copy is ``CACHE/<key>/<name>``; ``CACHE/<key>/.origin`` says of which URL. The origin alone
counts: a copy may be deleted whenever nothing uses it. ``CACHE`` is ``~/.cache/greatmeta_dist``, or
what the environment variable ``GREATMETA_CACHE`` names.

A file's time of change in a copy is that of its object, in whole seconds, once the two are equal.
Writing a file gives it another one, with a fraction of a second. So what differs, and who changed
it, is seen without reading it.
"""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from greatmeta_dist.errors import require
from greatmeta_dist.files import sha256, written_atomically
from greatmeta_dist.storage.objects import Listed, ObjectFolder, is_url, patiently

ORIGIN = ".origin"
KEY_LENGTH = 16
Wanted = Callable[[str], bool]


def local_folder(path: str | Path, *, use: str = "") -> Path:
    """Where to work on a path: there, or in this machine's copy of what a URL names.

    A ``use`` of its own has a copy of its own. The copy may lack anything.
    """
    if not is_url(path):
        return Path(path)
    url = str(path).rstrip("/")
    _require_folder(url)
    key = hashlib.sha256(f"{use} {url}".encode()).hexdigest()[:KEY_LENGTH]
    home = cache() / key
    home.mkdir(parents=True, exist_ok=True)
    if not (home / ORIGIN).exists():
        with written_atomically(home / ORIGIN) as partial:  # others read it meanwhile
            partial.write_text(url)
    return home / _name_of(url)


def _require_folder(url: str) -> None:
    """Raise ``InputError`` for a URL that is none of an object store's folder."""
    scheme, _, place = url.partition("://")
    require(
        scheme.isalnum() and scheme not in ("http", "https") and bool(place),
        f"{url} is no folder of an object store; expected a URL such as s3://bucket/folder",
    )
    require(
        "?" not in url,
        f"{url} has options behind a ?; leave them out, and name the server with AWS_ENDPOINT_URL",
    )


def _name_of(url: str) -> str:
    """What a copy is called: the last part of its URL."""
    return url.rsplit("/", 1)[1]


def absolute(path: str | Path) -> str:
    """A path that holds wherever a process stands; URLs are as they are."""
    return str(path).rstrip("/") if is_url(path) else str(Path(path).resolve())


def address(folder: Path) -> str:
    """What other machines know a folder by: its URL, or else its whole path."""
    copy = LocalCopy.of(folder)
    return copy.origin.url if copy is not None else str(folder.resolve())


def shown(text: str) -> str:
    """A text for users, with the URLs in place of their copies' paths."""
    root = str(cache())
    if root not in text:
        return text
    pattern = re.compile(rf"{re.escape(root)}/([0-9a-f]{{{KEY_LENGTH}}})/[^/\s:;,)]+")

    def url_of(found: re.Match[str]) -> str:
        try:
            return (cache() / found[1] / ORIGIN).read_text()
        except OSError:
            return found[0]

    return pattern.sub(url_of, text)


def cache() -> Path:
    """Where all copies are."""
    named = os.environ.get("GREATMETA_CACHE")
    return (Path(named) if named else Path.home() / ".cache" / "greatmeta_dist").resolve()


@dataclass(frozen=True)
class LocalCopy:
    """A copy, and what it is of."""

    folder: Path
    origin: ObjectFolder

    @classmethod
    def of(cls, folder: Path) -> "LocalCopy | None":
        """The copy that a folder is; None for a folder that is no copy."""
        if folder.parent.parent != cache():
            return None
        try:
            url = (folder.parent / ORIGIN).read_text()
        except FileNotFoundError:
            return None
        return cls(folder, ObjectFolder(url)) if folder.name == _name_of(url) else None

    def fetch(self, name: str) -> str | None:
        """Have a file as the origin has it now; its SHA-256, None where there is none."""
        path = self.folder / name
        try:
            patiently(lambda: self.origin.download(name, path))
        except FileNotFoundError:
            path.unlink(missing_ok=True)
            return None
        return sha256(path)

    def pull(
        self, wanted: Wanted, *, under: str = "", keeps_changes: bool = False
    ) -> dict[str, Listed]:
        """Have all wanted files as the origin has them now, and no others; all that it has.

        With ``keeps_changes`` files that were changed here stay, unless the origin's have grown
        beyond them, and nothing is deleted. Hidden files are no part of a copy. ``under`` is a
        folder that all wanted files are in.
        """
        there = self.origin.files(under)
        objects = {k: v for k, v in there.items() if is_visible(k) and wanted(k)}
        for name, listed in objects.items():
            path = self.folder / name
            if not _is_as(path, listed) and not (keeps_changes and _is_changed(path, listed)):
                self.origin.download(name, path)
                os.utime(path, (listed.time_s, listed.time_s))
        if not keeps_changes:
            for name in [n for n in self._files() if wanted(n) and n not in objects]:
                (self.folder / name).unlink(missing_ok=True)
        return there

    def push(
        self,
        wanted: Wanted,
        *,
        under: str = "",
        last: str | None = None,
        only_changed: bool = False,
        is_whole: bool = False,
    ) -> None:
        """Have all wanted files in the origin as they are here, the file ``last`` after the others.

        With ``only_changed`` what others changed there stays, unless it was changed here too. With
        ``is_whole`` wanted objects that are not here are deleted.
        """
        objects = {k: v for k, v in self.origin.files(under).items() if wanted(k)}
        names = sorted(filter(wanted, self._files()), key=lambda name: (name == last, name))
        for name in names:
            path = self.folder / name
            if name in objects and only_changed and not _is_changed(path):
                continue
            if not _is_as(path, objects.get(name)):
                self._push(name)
        if is_whole:
            for name in [n for n in objects if is_visible(n) and n not in names]:
                self.origin.delete(name)

    def _push(self, name: str) -> None:
        path = self.folder / name
        try:
            # What replaces the file meanwhile, or is written behind it, stays another file.
            with path.open("rb") as file:
                self.origin.upload(path, name)
                listed = self.origin.listed(name)
                if listed is not None and listed.size == os.fstat(file.fileno()).st_size:
                    os.utime(file.fileno(), (listed.time_s, listed.time_s))
        except FileNotFoundError:
            if path.exists():
                raise  # it is not the file that is missing

    def _files(self) -> list[str]:
        paths = (p for p in self.folder.rglob("*") if p.is_file())
        return [name for p in paths if is_visible(name := p.relative_to(self.folder).as_posix())]


def is_visible(name: str) -> bool:
    """Whether a file belongs to a folder for good: it is neither hidden nor unfinished."""
    return not name.endswith(".partial") and not any(p.startswith(".") for p in name.split("/"))


def _is_as(path: Path, listed: Listed | None) -> bool:
    """Whether a file is as an object, by its size and its time of change."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return (
        listed is not None
        and status.st_size == listed.size
        and status.st_mtime_ns == listed.time_s * 10**9
    )


def _is_changed(path: Path, listed: Listed | None = None) -> bool:
    """Whether a file was written here since it was as its object, which is not larger now."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return status.st_mtime_ns % 10**9 != 0 and (listed is None or status.st_size >= listed.size)
