"""Training as one of the processes that torchrun started, and starts again where one dies."""

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from greatmeta_dist.config import Config
from greatmeta_dist.display import Display, Silent
from greatmeta_dist.engine.communicator import Communicator, PeerLost, join
from greatmeta_dist.errors import InputError
from greatmeta_dist.training.device import local_device
from greatmeta_dist.training.loop import train
from greatmeta_dist.training.run_folder import open_run

KEEP_ALIVE_S = 1.0
"""Seconds between the messages that keep the other processes waiting."""
WAIT = "wait"
"""The message that keeps them waiting. After it come the config, or the code they exit with."""


def train_as_member(config: Config, run: Path, display: Display) -> dict[str, Any]:
    """Train as one of torchrun's processes; the first one returns, the others end in here."""
    communicator = join(local_device(), is_fast=config.cluster.reduction == "fast")
    if not communicator.is_first:
        _follow(run, communicator)
    with ExitStack() as stack:
        try:
            with _others_waiting(communicator):
                config = stack.enter_context(open_run(config, run, display))
        except BaseException as error:
            communicator.broadcast_object(2 if isinstance(error, InputError) else 1)
            raise
        communicator.broadcast_object(config)
        return train(config, run, display, communicator=communicator)


def _follow(run: Path, communicator: Communicator) -> NoReturn:
    """Train with the config that the first process decided, then end this process."""
    message = WAIT
    while message == WAIT:
        message = communicator.broadcast_object(None)
    if not isinstance(message, Config):
        sys.exit(message)
    train(message, run, Silent(), communicator=communicator)
    sys.exit(0)


@contextmanager
def _others_waiting(communicator: Communicator) -> Iterator[None]:
    """Keep the other processes waiting while in the block, however long it takes.

    Opening a run may fit priors, which can take longer than the others' patience with a message.
    So they get one every second, and can be stopped between any two.
    """
    is_over = threading.Event()

    def send_messages() -> None:
        with suppress(PeerLost):  # the next message shows it to the main thread
            while not is_over.wait(KEEP_ALIVE_S):
                communicator.broadcast_object(WAIT)

    thread = threading.Thread(target=send_messages, name="keep alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
