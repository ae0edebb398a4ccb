"""What a command makes on an object store: made in this machine's copy, and then written there.

What was made and not yet written, because of a kill, is written by the next command of that place.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from greatmeta_dist.errors import InputError, require
from greatmeta_dist.storage.claim import claimed
from greatmeta_dist.storage.local_copy import LocalCopy, Wanted, local_folder
from greatmeta_dist.storage.objects import ObjectFolder, patiently

MAKING = "make"
"""The use of a copy that something is made in."""
REJECTS = "rejects.parquet"
"""Rows that could not be read, in a folder that is made or, after its name, beside it."""


@contextmanager
def made_at(
    path: str | Path,
    *,
    taken: str,
    last: str | None = None,
    starts_with: Wanted | None = None,
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[Path]:
    """Where the block makes a file or a folder: at the path, or in the copy of what a URL names.

    The copy begins with what is there, and what is there in the end is what the copy has. With
    ``starts_with`` it begins with no more than what that wants, and nothing is deleted. A
    folder is written with the file ``last`` after the others. Raises ``InputError`` with
    the message ``taken`` where another process makes it.
    """
    target = local_folder(path, use=MAKING)
    copy = LocalCopy.of(target)
    if copy is None:
        yield target
        return
    above, _, name = copy.origin.url.rpartition("/")
    require(
        not above.endswith("/"),
        f"{path} is a whole bucket; name a folder in it",
    )
    made = _Made(LocalCopy(target.parent, ObjectFolder(above)), name, last)
    with claimed(made.copy.origin, taken, on_wait=on_wait, folder=f".claims-{name}"):
        made.start(starts_with or (lambda name: True))
        try:
            yield target
        except InputError:
            made.write_rejects()
            raise
        made.write(is_whole=starts_with is None)


class _Made:
    """One thing that is made, in a folder that all its files are below."""

    def __init__(self, copy: LocalCopy, name: str, last: str | None):
        self.copy, self._name = copy, name
        self._last = f"{name}/{last}" if last is not None else None

    def start(self, wanted: Wanted) -> None:
        """Write what an earlier command has made and not written; have what is there now."""
        last = self._last
        is_made = last is not None and (self.copy.folder / last).exists()
        if is_made and self.copy.origin.listed(last or "") is None:
            self._push(is_whole=False)
        prefix = f"{self._name}/"

        def belongs(name: str) -> bool:
            return name == self._name or (
                name.startswith(prefix) and wanted(name.removeprefix(prefix))
            )

        self.copy.pull(belongs, under=self._name)

    def write(self, *, is_whole: bool) -> None:
        """Write what was made, and forget it here."""
        self._push(is_whole=is_whole)
        self._write_beside()
        target = self.copy.folder / self._name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def write_rejects(self) -> None:
        """Write the rows that were rejected, if any were, where nothing was made of the others."""
        inside = f"{self._name}/{REJECTS}"
        if (self.copy.folder / inside).exists():
            self.copy.origin.upload(self.copy.folder / inside, inside)
        self._write_beside()

    def _write_beside(self) -> None:
        """Write the rejects beside what was made, or delete those of an earlier command."""
        name = f"{self._name.removesuffix('.parquet')}.{REJECTS}"
        path = self.copy.folder / name
        if path.exists():
            self.copy.origin.upload(path, name)
            path.unlink()
        else:
            self.copy.origin.delete(name)

    def _push(self, *, is_whole: bool) -> None:
        prefix = f"{self._name}/"

        def belongs(name: str) -> bool:
            return name == self._name or name.startswith(prefix)

        patiently(
            lambda: self.copy.push(belongs, under=self._name, last=self._last, is_whole=is_whole)
        )
