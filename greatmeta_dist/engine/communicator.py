"""The workers of a run and what crosses between them, counted (DESIGN.md section 4).

``Communicator`` is one worker alone: every message of a step stays where it is. ``DistributedCommunicator`` is one of
several, through torch.distributed. Both offer the same few operations, so a step is written once.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(seconds=30)
"""A peer that says nothing for this long is taken for dead."""
START_PATIENCE = timedelta(seconds=180)
"""The same while workers start, load data and checkpoints."""


Parcels = Sequence[Sequence[Tensor]]
"""Tensors for each worker, or from each."""
Shapes = Sequence[Sequence[Sequence[int]]]
"""Theirs."""


class PeerLost(RuntimeError):
    """Another worker died or went silent; the group must start anew from its last checkpoint."""


@dataclass
class Traffic:
    """Bytes sent to other workers and seconds spent in messages, waiting included, by phase."""

    sent: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, phase: str, sent: int, seconds: float) -> None:
        self.sent[phase] = self.sent.get(phase, 0) + sent
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    @classmethod
    def of_all(cls, workers: Sequence["Traffic"]) -> "Traffic":
        """What all sent, and how long one was at it on average."""
        total = cls()
        for worker in workers:
            for phase, seconds in worker.seconds.items():
                total.add(phase, worker.sent[phase], seconds / len(workers))
        return total

    def take(self) -> "Traffic":
        """What came together since the last call."""
        taken = Traffic(self.sent, self.seconds)
        self.sent, self.seconds = {}, {}
        return taken


class Communicator:
    """A worker by itself, and the operations all have: rank 0 is the coordinator's."""

    rank: int = 0
    size: int = 1
    is_spare: bool = False
    """Whether this worker is one more than a power of two, and has nothing to do."""
    is_fast: bool = False
    """Whether sums of A may be taken in any order."""

    def __init__(self) -> None:
        self.traffic = Traffic()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def all_reduce(self, value: Tensor, phase: str) -> Tensor:
        """The sum over workers, in any order the library likes; in place."""
        return value

    def broadcast(self, value: Tensor, phase: str) -> None:
        """Rank 0's value, in all; in place."""
        self.begin_broadcast(value, phase)()

    def begin_broadcast(self, value: Tensor, phase: str) -> Callable[[], None]:
        """The same, on its way; what is returned waits for it. Until then rank 0 must not write
        ``value``, and others must not touch it."""
        return lambda: None

    def gather(self, value: Tensor, phase: str) -> Tensor | None:
        """Equal shapes [n, ·] of all workers → [W·n, ·] in rank order on rank 0, None elsewhere."""
        return value

    def scatter(self, value: Tensor | None, like: Tensor, phase: str) -> Tensor:
        """The inverse of ``gather``; ``like`` has the shape and kind of a worker's share."""
        assert value is not None
        return value

    def all_to_all(self, parcels: Parcels, shapes: Shapes, phase: str) -> list[list[Tensor]]:
        """Parcel r, of any few tensors, goes to worker r; what each sent here, of such shapes.

        All parcels hold the same kinds, of 4 bytes an entry. The own one comes back as it is.
        """
        return self.begin_all_to_all(parcels, shapes, phase)()

    def begin_all_to_all(
        self, parcels: Parcels, shapes: Shapes, phase: str
    ) -> Callable[[], list[list[Tensor]]]:
        """The same, on its way; what is returned waits for it."""
        return lambda: [list(parcel) for parcel in parcels]

    def gather_objects(self, value: Any) -> list[Any] | None:
        """Any values of all workers, in rank order, on rank 0; None elsewhere."""
        return [value]

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's value, in all."""
        return value

    def all_true(self, is_so: bool) -> bool:
        """Whether it is so for every worker."""
        return is_so

    def use_short_timeout(self) -> None:
        """From here on workers keep step: silence means death sooner."""


class DistributedCommunicator(Communicator):
    """One of several workers, joined by torch.distributed."""

    def __init__(self, *, is_fast: bool = False):
        """The default process group must be up."""
        super().__init__()
        self.rank, self.size = dist.get_rank(), 1 << dist.get_world_size().bit_length() - 1
        self.is_fast = is_fast
        self.is_spare = self.rank >= self.size
        ranks = list(range(self.size))
        with self._counted("control"):
            # Few and small control messages go through the host, whatever the tensors do.
            self._control = dist.new_group(ranks, backend="gloo", timeout=START_PATIENCE)
            self._quick_control = dist.new_group(ranks, backend="gloo", timeout=PATIENCE)
            self._work = dist.new_group(ranks, timeout=PATIENCE)

    def all_reduce(self, value: Tensor, phase: str) -> Tensor:
        with self._counted(phase, value):
            dist.all_reduce(value, group=self._work)
        return value

    def begin_broadcast(self, value: Tensor, phase: str) -> Callable[[], None]:
        with self._counted(phase, *(value,) if self.is_first else ()):
            under_way = dist.broadcast(value, 0, group=self._work, async_op=True)

        def arrived() -> None:
            with self._counted(phase):
                under_way.wait()

        return arrived

    def gather(self, value: Tensor, phase: str) -> Tensor | None:
        value = value.contiguous()
        parts = [torch.empty_like(value) for _ in range(self.size)] if self.is_first else None
        with self._counted(phase, *() if self.is_first else (value,)):
            dist.gather(value, parts, 0, group=self._work)
        return None if parts is None else torch.cat(parts)

    def scatter(self, value: Tensor | None, like: Tensor, phase: str) -> Tensor:
        out = torch.empty_like(like, memory_format=torch.contiguous_format)
        parts = None if value is None else [p.contiguous() for p in value.split(len(like))]
        with self._counted(phase, *(parts or ())[1:]):
            dist.scatter(out, parts, 0, group=self._work)
        return out

    def begin_all_to_all(
        self, parcels: Parcels, shapes: Shapes, phase: str
    ) -> Callable[[], list[list[Tensor]]]:
        kinds = [tensor.dtype for tensor in parcels[0]]
        away = [() if r == self.rank else parcel for r, parcel in enumerate(parcels)]
        flat = [[tensor.reshape(-1).view(torch.int32) for tensor in p] for p in away]
        given = torch.cat([tensor for parcel in flat for tensor in parcel])
        due = [() if r == self.rank else parcel for r, parcel in enumerate(shapes)]
        sizes = [[math.prod(shape) for shape in parcel] for parcel in due]
        out = given.new_empty(sum(map(sum, sizes)))
        with self._counted(phase, given):
            under_way = dist.all_to_all_single(
                out,
                given,
                [sum(parcel) for parcel in sizes],
                [sum(map(len, parcel)) for parcel in flat],
                group=self._work,
                async_op=True,
            )

        def received() -> list[list[Tensor]]:
            with self._counted(phase):
                under_way.wait()
            pieces = iter(out.split([n for parcel in sizes for n in parcel]))
            return [
                [
                    next(pieces).view(kind).view(shape)
                    for kind, shape in zip(kinds, parcel, strict=True)
                ]
                if r != self.rank
                else list(parcels[r])
                for r, parcel in enumerate(shapes)
            ]

        return received

    def gather_objects(self, value: Any) -> list[Any] | None:
        found: list[Any] | None = [None] * self.size if self.is_first else None
        with self._counted("control"):
            dist.gather_object(value, found, 0, group=self._control)
        return found

    def broadcast_object(self, value: Any) -> Any:
        box = [value]
        with self._counted("control"):
            dist.broadcast_object_list(box, 0, group=self._control)
        return box[0]

    def all_true(self, is_so: bool) -> bool:
        flag = torch.tensor(int(is_so))
        with self._counted("control", flag):
            dist.all_reduce(flag, dist.ReduceOp.MIN, group=self._control)
        return bool(flag)

    def use_short_timeout(self) -> None:
        self._control = self._quick_control

    @contextmanager
    def _counted(self, phase: str, *sent: Tensor) -> Iterator[None]:
        """Count a message; what the library raises in it means that a peer is gone."""
        start = time.perf_counter()
        try:
            yield
        except (RuntimeError, dist.DistError) as error:
            raise PeerLost(f"worker {self.rank} lost a peer in {phase}: {error}") from error
        size = sum(value.numel() * value.element_size() for value in sent)
        self.traffic.add(phase, size, time.perf_counter() - start)


def join(device: torch.device, *, is_fast: bool) -> Communicator:
    """The communicator that the environment describes, as torchrun and Ray Train set it, or a lone one."""
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Communicator()
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=START_PATIENCE)
    if dist.get_world_size() == 1:
        return Communicator()
    return DistributedCommunicator(is_fast=is_fast)
