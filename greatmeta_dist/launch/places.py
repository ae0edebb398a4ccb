"""Whether a file or folder is there, on disk or on an object store, and marks beside it."""

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from greatmeta_dist.storage.objects import ObjectFolder, is_url


def is_there(place: str) -> bool:
    """Whether a file, folder or object exists; raises ``OSError`` where that cannot be told."""
    if not is_url(place):
        with suppress(OSError):
            os.listdir(Path(place).parent)  # network file systems keep an older listing for a while
        return Path(place).exists()
    return ObjectFolder(place).exists()


def write_mark(place: str, made: list[Path]) -> str:
    """Write an empty file beside what will be written; notes in ``made`` the folders made for it.

    Raises ``OSError``.
    """
    name = f".greatmeta-{uuid4().hex[:12]}"
    if is_url(place):
        scheme, _, path = place.rstrip("/").partition("://")
        folder = f"{scheme}://{path.rpartition('/')[0] or path}"  # a bucket itself has none beside
        ObjectFolder(folder).write(name, b"")
        return f"{folder}/{name}"
    parent = Path(place).parent
    missing = [path for path in (parent, *parent.parents) if not path.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    made += reversed(missing)
    (parent / name).touch()
    return str(parent / name)


def delete_mark(mark: str) -> None:
    """Delete a mark, if it is there and can be reached."""
    with suppress(OSError):
        if is_url(mark):
            folder, _, name = mark.rpartition("/")
            ObjectFolder(folder).delete(name)
        else:
            Path(mark).unlink(missing_ok=True)
