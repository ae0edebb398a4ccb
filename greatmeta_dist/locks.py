"""One writer at a time for a folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from greatmeta_dist.config import InputError


@contextmanager
def locked(path: Path, taken: str) -> Iterator[None]:
    """Hold a lock file while in the block; the system frees it if the process dies.

    Raises ``InputError`` with ``taken`` where another process holds it.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{taken}; wait for it, or stop it") from None
        yield
