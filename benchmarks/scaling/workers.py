"""Processes that stand for workers, each bound to one core."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from greatmeta_dist.engine.communicator import START_PATIENCE, Communicator, DistributedCommunicator

SIZES = (1, 2)
"""Workers of the groups that are measured."""
LONE_PAIR = 0
"""Stands for two lone workers at a time, as the size of a group."""


class Workers:
    """A group's processes, and a pipe to each."""

    def __init__(self, size: int, folder: Path, work: Callable[..., None], *arguments: Any):
        """Start them: each calls ``work(rank, size, rendezvous, pipe, *arguments)``."""
        context = multiprocessing.get_context("spawn")
        rendezvous = folder / f"rendezvous-{work.__name__}-{size}"
        self.pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for rank in range(size or 2):
            here, there = context.Pipe()
            process = context.Process(
                target=work, args=(rank, size, rendezvous, there, *arguments), daemon=True
            )
            process.start()
            self.pipes.append(here)
            self._processes.append(process)

    def receive(self) -> list[Any]:
        """One message from each."""
        return [pipe.recv() for pipe in self.pipes]

    def send(self, message: Any) -> None:
        """The same message to all."""
        for pipe in self.pipes:
            pipe.send(message)

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def join_group(rank: int, size: int, rendezvous: Path) -> Communicator:
    """Called by a worker: take a core and one thread, and meet the others."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    if size in (1, LONE_PAIR):
        return Communicator()
    dist.init_process_group(
        "gloo", init_method=rendezvous.as_uri(), rank=rank, world_size=size, timeout=START_PATIENCE
    )
    return DistributedCommunicator()
