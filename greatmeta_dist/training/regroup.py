"""What may be asked of workers while they train: to stop, or to make way for another group."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from greatmeta_dist.engine.communicator import Communicator


@dataclass(frozen=True)
class Regroup:
    """Why a group should end after the step that follows, for another to go on."""

    kind: Literal["preemption", "growth"]
    """The kind of event in the run's history."""
    reason: str


class Regrouping(RuntimeError):
    """The group has ended for that, with a checkpoint, from which another group goes on."""


@dataclass(frozen=True)
class Requests:
    """What a worker may be asked for; once asked for, it stays so."""

    is_stopped: Callable[[], bool] = lambda: False
    regroup: Callable[[], Regroup | None] = lambda: None

    def any(self) -> bool:
        """Whether anything is asked for."""
        return self.is_stopped() or self.regroup() is not None

    def agreed_regroup(self, communicator: Communicator) -> Regroup | None:
        """What the first worker was asked for that was asked for any, on all workers."""
        requests = communicator.gather_objects(self.regroup())
        first = next((r for r in requests or () if r is not None), None)
        regroup: Regroup | None = communicator.broadcast_object(first)
        return regroup
