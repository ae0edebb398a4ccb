"""Who may write a folder of an object store: object stores have no locks.

Who wants the folder writes a claim, an object of its own, and then lists all claims. Whoever sees
another's deletes its own and does not go on. A list shows all that was written before it, so of two
at least one sees the other: never do both go on. A claim is renewed while its holder lives, and
counts for nothing after ``STALE_S``, by the store's clock alone. On the holder's own machine it
counts for nothing as soon as the process is gone.
"""

import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

from greatmeta_dist.errors import InputError
from greatmeta_dist.storage.objects import Listed, ObjectFolder

CLAIMS = ".claims"
RENEW_S = 15.0
STALE_S = 60.0
POLL_S = 1.0


@contextmanager
def claimed(
    origin: ObjectFolder,
    taken: str,
    *,
    on_wait: Callable[[], None] = lambda: None,
    folder: str = CLAIMS,
) -> Iterator[None]:
    """Hold a folder while in the block; ``folder`` is where in it the claims are.

    Where another's claim was not renewed for a while, it waits until that is stale; ``on_wait`` is
    called once. Raises ``InputError`` with the message ``taken`` where the holder lives, or the
    store cannot be written.
    """
    content = json.dumps({"machine": _machine(), "pid": os.getpid()}).encode()
    name = _take(origin, folder, content, taken, on_wait)
    is_over = threading.Event()

    def renew() -> None:
        while not is_over.wait(RENEW_S):
            with suppress(OSError):
                origin.write(name, content)

    thread = threading.Thread(target=renew, name="claim", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        with suppress(OSError):
            origin.delete(name)


def _take(
    origin: ObjectFolder, folder: str, content: bytes, taken: str, on_wait: Callable[[], None]
) -> str:
    """Write a claim and return once it is the only one that counts, its name; see ``claimed``."""
    seen: dict[str, int] = {}
    is_waiting = False
    while True:
        # Each try has a new name, so that one which stays is known for its holder's.
        name = f"{folder}/{uuid4().hex}.json"
        try:
            origin.write(name, content)
            others = _others(origin, name)
            if others:
                origin.delete(name)
        except OSError as error:
            with suppress(OSError):
                origin.delete(name)
            raise InputError(str(error)) from error
        if not others:
            return name
        staying = seen.keys() & others.keys()
        # Whoever renews a claim lives.
        if any(others[other][1] or others[other][0].time_s != seen[other] for other in staying):
            raise InputError(f"{taken}; wait for it, or stop it")
        if staying and not is_waiting:
            on_wait()
            is_waiting = True
        seen = {other: listed.time_s for other, (listed, _) in others.items()} | seen
        time.sleep(POLL_S * random.uniform(0.5, 1.5))  # all who came at once try at other times


def _others(origin: ObjectFolder, name: str) -> dict[str, tuple[Listed, bool]]:
    """The claims of others that count, and whether by a living process of this machine.

    Those that do not count are deleted.
    """
    claims = origin.files(name.split("/")[0])
    now = claims[name].time_s
    living = {}
    for other in claims.keys() - {name}:
        is_alive = _is_alive_here(origin, other)
        if is_alive is False or (is_alive is None and now - claims[other].time_s >= STALE_S):
            origin.delete(other)
        else:
            living[other] = claims[other], bool(is_alive)
    return living


def _is_alive_here(origin: ObjectFolder, name: str) -> bool | None:
    """Whether a claim's holder lives; None where that was no process of this machine."""
    try:
        holder = json.loads(origin.read(name))
        if holder["machine"] != _machine():
            return None
        os.kill(holder["pid"], 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    except (ValueError, KeyError, TypeError):
        return None
    return True


def _machine() -> str:
    """This machine, or this container of it: where process ids mean the same."""
    try:
        return f"{socket.gethostname()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()
