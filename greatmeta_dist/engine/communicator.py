"""Messages between the workers of a run, and a count of them (DESIGN.md section 4).

``Communicator`` is a lone worker: every message stays where it is. ``DistributedCommunicator`` is
one of several workers, joined by torch.distributed. Both offer the same few operations, so the code
of a step is the same for any number of workers.

All workers must call the same operations in the same order. ``phase`` names what a message is for:
bytes and seconds are counted by it, and shown in TensorBoard under ``perf/``.

Shapes: W workers; n and · are any sizes.
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
"""While training, a worker that sends nothing for this long counts as dead."""
START_PATIENCE = timedelta(seconds=180)
"""The same while workers start, load data and read checkpoints, which takes longer."""

WorkerTensors = Sequence[Sequence[Tensor]]
"""[W] a few tensors to, or from, each worker."""
WorkerShapes = Sequence[Sequence[Sequence[int]]]
"""[W] the shapes of a few tensors from each worker."""


class PeerLost(RuntimeError):
    """Another worker died or went silent; all workers must start anew from the last checkpoint."""


@dataclass
class Traffic:
    """Bytes sent to other workers and seconds spent in messages, waiting included, by phase."""

    sent: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, phase: str, sent: int, seconds: float) -> None:
        """Count a message."""
        self.sent[phase] = self.sent.get(phase, 0) + sent
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    @classmethod
    def of_all(cls, workers: Sequence["Traffic"]) -> "Traffic":
        """The bytes of all workers together, and their mean seconds."""
        total = cls()
        for worker in workers:
            for phase, seconds in worker.seconds.items():
                total.add(phase, worker.sent[phase], seconds / len(workers))
        return total

    def take(self) -> "Traffic":
        """What was counted since the last call; counting starts again from zero."""
        taken = Traffic(self.sent, self.seconds)
        self.sent, self.seconds = {}, {}
        return taken


class Communicator:
    """A lone worker, and the operations that every communicator has.

    Rank 0 hosts the coordinator. With several workers every operation can raise ``PeerLost``.
    """

    rank: int = 0
    size: int = 1
    """W, the world size: a power of two."""
    is_spare: bool = False
    """Whether this process is one more than the power of two, and so hosts no lanes."""
    is_fast: bool = False
    """Whether sums of A may be taken in any order, so that their bits depend on W."""

    def __init__(self) -> None:
        self.traffic = Traffic()

    @property
    def is_first(self) -> bool:
        """Whether this worker is rank 0, the coordinator's."""
        return self.rank == 0

    def all_reduce(self, value: Tensor, phase: str) -> Tensor:
        """Sum over workers, in an order that the library chooses; in place."""
        return value

    def broadcast(self, value: Tensor, phase: str) -> None:
        """Overwrite ``value`` with rank 0's, on all workers."""
        self.begin_broadcast(value, phase)()

    def begin_broadcast(self, value: Tensor, phase: str) -> Callable[[], None]:
        """Start a ``broadcast``; call what is returned to wait for its end.

        Until then rank 0 must not write ``value``, and the others must neither read nor write it.
        """
        return lambda: None

    def gather(self, value: Tensor, phase: str) -> Tensor | None:
        """[n, ·] of each worker → [W·n, ·] in rank order on rank 0, None elsewhere."""
        return value

    def scatter(self, value: Tensor | None, like: Tensor, phase: str) -> Tensor:
        """[W·n, ·] on rank 0 → [n, ·] on each worker, the inverse of ``gather``.

        ``value`` is None on all other ranks. ``like`` has the shape and dtype of the result.
        """
        assert value is not None
        return value

    def all_to_all(
        self, outgoing: WorkerTensors, incoming_shapes: WorkerShapes, phase: str
    ) -> list[list[Tensor]]:
        """Send each worker a few tensors, and receive as many from each.

        ``outgoing[r]`` goes to worker r. The result's entry r is what worker r sent here, of the
        shapes ``incoming_shapes[r]``; the entry of one's own rank is ``outgoing``'s, unchanged.
        Each entry lists the same dtypes in the same order, all of 4 bytes a number.
        """
        return self.begin_all_to_all(outgoing, incoming_shapes, phase)()

    def begin_all_to_all(
        self, outgoing: WorkerTensors, incoming_shapes: WorkerShapes, phase: str
    ) -> Callable[[], list[list[Tensor]]]:
        """Start an ``all_to_all``; call what is returned to wait for what was received."""
        return lambda: [list(tensors) for tensors in outgoing]

    def gather_objects(self, value: Any) -> list[Any] | None:
        """Any picklable values of all workers, in rank order, on rank 0; None elsewhere."""
        return [value]

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's picklable value, on all workers."""
        return value

    def all_true(self, condition: bool) -> bool:
        """Whether the condition holds on every worker; the same answer on all of them."""
        return condition

    def use_short_timeout(self) -> None:
        """From here on a control message may take ``PATIENCE`` rather than ``START_PATIENCE``.

        Called once training begins, when all workers keep step and silence means death.
        """

    def use_long_timeout(self) -> None:
        """The inverse, once training has ended: checkpoints are read again."""


class DistributedCommunicator(Communicator):
    """One of several workers, joined by torch.distributed."""

    def __init__(self, *, is_fast: bool = False):
        """The default process group must be up; of its processes a power of two are workers."""
        super().__init__()
        self.rank, self.size = dist.get_rank(), 1 << dist.get_world_size().bit_length() - 1
        self.is_fast = is_fast
        self.is_spare = self.rank >= self.size
        ranks = list(range(self.size))
        with self._counted("control"):
            # Control messages are few and small, and their values are wanted by Python: they go
            # between the hosts' memories even where tensors go between GPUs.
            self._long_control = dist.new_group(ranks, backend="gloo", timeout=START_PATIENCE)
            self._short_control = dist.new_group(ranks, backend="gloo", timeout=PATIENCE)
            self._data = dist.new_group(ranks, timeout=PATIENCE)
        self._control = self._long_control

    def all_reduce(self, value: Tensor, phase: str) -> Tensor:
        with self._counted(phase, value):
            dist.all_reduce(value, group=self._data)
        return value

    def begin_broadcast(self, value: Tensor, phase: str) -> Callable[[], None]:
        with self._counted(phase, *(value,) if self.is_first else ()):
            message = dist.broadcast(value, 0, group=self._data, async_op=True)

        def wait() -> None:
            with self._counted(phase):
                message.wait()

        return wait

    def gather(self, value: Tensor, phase: str) -> Tensor | None:
        value = value.contiguous()
        values = [torch.empty_like(value) for _ in range(self.size)] if self.is_first else None
        with self._counted(phase, *() if self.is_first else (value,)):
            dist.gather(value, values, 0, group=self._data)
        return None if values is None else torch.cat(values)

    def scatter(self, value: Tensor | None, like: Tensor, phase: str) -> Tensor:
        out = torch.empty_like(like, memory_format=torch.contiguous_format)
        values = None if value is None else [v.contiguous() for v in value.split(len(like))]
        with self._counted(phase, *(values or ())[1:]):
            dist.scatter(out, values, 0, group=self._data)
        return out

    def begin_all_to_all(
        self, outgoing: WorkerTensors, incoming_shapes: WorkerShapes, phase: str
    ) -> Callable[[], list[list[Tensor]]]:
        # The library exchanges one flat tensor. All our numbers have 4 bytes, so the bits of
        # floats and ints travel in it side by side, viewed as int32.
        dtypes = [tensor.dtype for tensor in outgoing[0]]
        bits = [
            [tensor.reshape(-1).view(torch.int32) for tensor in tensors]
            for tensors in self._but_own(outgoing)
        ]
        sent = torch.cat([tensor for tensors in bits for tensor in tensors])
        sizes = [
            [math.prod(shape) for shape in shapes] for shapes in self._but_own(incoming_shapes)
        ]
        received = sent.new_empty(sum(map(sum, sizes)))
        with self._counted(phase, sent):
            message = dist.all_to_all_single(
                received,
                sent,
                [sum(worker_sizes) for worker_sizes in sizes],
                [sum(map(len, tensors)) for tensors in bits],
                group=self._data,
                async_op=True,
            )

        def wait() -> list[list[Tensor]]:
            with self._counted(phase):
                message.wait()
            flat = iter(received.split([n for worker_sizes in sizes for n in worker_sizes]))
            return [
                list(outgoing[rank])
                if rank == self.rank
                else [
                    next(flat).view(dtype).view(shape)
                    for dtype, shape in zip(dtypes, shapes, strict=True)
                ]
                for rank, shapes in enumerate(incoming_shapes)
            ]

        return wait

    def _but_own(self, by_worker: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
        """An entry for each worker, empty for this one: what stays here is not copied."""
        return [() if rank == self.rank else entry for rank, entry in enumerate(by_worker)]

    def gather_objects(self, value: Any) -> list[Any] | None:
        values: list[Any] | None = [None] * self.size if self.is_first else None
        with self._counted("control"):
            dist.gather_object(value, values, 0, group=self._control)
        return values

    def broadcast_object(self, value: Any) -> Any:
        values = [value]
        with self._counted("control"):
            dist.broadcast_object_list(values, 0, group=self._control)
        return values[0]

    def all_true(self, condition: bool) -> bool:
        flag = torch.tensor(int(condition))
        with self._counted("control", flag):
            dist.all_reduce(flag, dist.ReduceOp.MIN, group=self._control)
        return bool(flag)

    def use_short_timeout(self) -> None:
        self._control = self._short_control

    def use_long_timeout(self) -> None:
        self._control = self._long_control

    @contextmanager
    def _counted(self, phase: str, *sent: Tensor) -> Iterator[None]:
        """Count a message's bytes and seconds; an error of the library means that a peer is gone.

        A message that is begun and awaited apart counts its bytes once, and both times' seconds.
        """
        start = time.perf_counter()
        try:
            yield
        except (RuntimeError, dist.DistError) as error:
            raise PeerLost(f"worker {self.rank} lost a peer in {phase}: {error}") from error
        num_bytes = sum(value.numel() * value.element_size() for value in sent)
        self.traffic.add(phase, num_bytes, time.perf_counter() - start)


def join(device: torch.device, *, is_fast: bool) -> Communicator:
    """Join the workers that the environment describes, as torchrun and Ray Train set it.

    A lone worker's communicator where the environment describes none, or one. ``device`` decides
    what carries tensors: NCCL between GPUs, gloo between CPUs.
    """
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Communicator()
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=START_PATIENCE)
    if dist.get_world_size() == 1:
        return Communicator()
    return DistributedCommunicator(is_fast=is_fast)
