"""Workers in threads of one process, for tests of the engine."""

import queue
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from greatmeta_dist.engine.communicator import Communicator, WorkerShapes, WorkerTensors

TIMEOUT_S = 30


class ThreadCommunicator(Communicator):
    """One of W workers in threads, which puts messages into the others' inboxes.

    Notes in ``events`` what is begun and awaited, in order. Tensors are sent as copies: a worker
    may overwrite its own before the others read them.
    """

    def __init__(self, rank: int, inboxes: Sequence[queue.Queue], *, is_fast: bool = False):
        super().__init__()
        self.rank, self.size, self.is_fast = rank, len(inboxes), is_fast
        self.events: list[str] = []
        self._inboxes = inboxes
        self._received: dict[int, deque] = defaultdict(deque)

    @property
    def _others(self) -> list[int]:
        return [rank for rank in range(self.size) if rank != self.rank]

    def _send(self, rank: int, message: Any) -> None:
        self._inboxes[rank].put((self.rank, message))

    def _receive(self, rank: int) -> Any:
        """The next message from a worker; a faster one's may lie before it."""
        while not self._received[rank]:
            sender, message = self._inboxes[self.rank].get(timeout=TIMEOUT_S)
            self._received[sender].append(message)
        return self._received[rank].popleft()

    def begin_all_to_all(
        self, outgoing: WorkerTensors, incoming_shapes: WorkerShapes, phase: str
    ) -> Callable[[], list[list[Tensor]]]:
        self.events.append(phase)
        for rank in self._others:
            self._send(rank, [tensor.clone() for tensor in outgoing[rank]])

        def wait() -> list[list[Tensor]]:
            received = [
                list(outgoing[rank]) if rank == self.rank else self._receive(rank)
                for rank in range(self.size)
            ]
            for rank in self._others:
                shapes = [tuple(shape) for shape in incoming_shapes[rank]]
                assert [tuple(tensor.shape) for tensor in received[rank]] == shapes
            return received

        return wait

    def begin_broadcast(self, value: Tensor, phase: str) -> Callable[[], None]:
        self.events.append(f"{phase} begun")
        if self.is_first:
            for rank in self._others:
                self._send(rank, value.clone())

        def wait() -> None:
            self.events.append(f"{phase} awaited")
            if not self.is_first:
                value.copy_(self._receive(0))

        return wait

    def all_reduce(self, value: Tensor, phase: str) -> Tensor:
        return value.copy_(torch.stack(self._exchange(value.clone())).sum(0))

    def gather(self, value: Tensor, phase: str) -> Tensor | None:
        values = self.gather_objects(value.clone())
        return None if values is None else torch.cat(values)

    def scatter(self, value: Tensor | None, like: Tensor, phase: str) -> Tensor:
        return self.broadcast_object(value)[self.rank * len(like) :][: len(like)].clone()

    def gather_objects(self, value: Any) -> list[Any] | None:
        if self.is_first:
            return [value, *(self._receive(rank) for rank in self._others)]
        self._send(0, value)
        return None

    def broadcast_object(self, value: Any) -> Any:
        if not self.is_first:
            return self._receive(0)
        for rank in self._others:
            self._send(rank, value)
        return value

    def all_true(self, condition: bool) -> bool:
        return all(self._exchange(condition))

    def _exchange(self, value: Any) -> list[Any]:
        return self.broadcast_object(self.gather_objects(value))


def run_workers(size: int, work: Callable[[ThreadCommunicator], Any], **options: Any) -> list[Any]:
    """What ``work`` returns for each of ``size`` workers, which run at the same time."""
    inboxes = [queue.Queue() for _ in range(size)]
    communicators = [ThreadCommunicator(rank, inboxes, **options) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(work, communicator) for communicator in communicators]
        return [future.result() for future in futures]
