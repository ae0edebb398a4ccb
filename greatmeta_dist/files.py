"""One writer at a time for a folder."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from greatmeta_dist.errors import InputError


@contextmanager
def locked(path: Path, taken: str, *, patience_s: float = 0.0) -> Iterator[None]:
    """Hold a lock file while in the block; the system frees it if the process dies.

    Raises ``InputError`` with ``taken`` where another process holds it, and goes on to.
    """
    deadline = time.monotonic() + patience_s
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise InputError(f"{taken}; wait for it, or stop it") from None
            time.sleep(0.2)
        yield
