"""How a group's training ends, and whether it is worth starting again."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from greatmeta_dist.engine import checkpoint
from greatmeta_dist.engine.communicator import PeerLost
from greatmeta_dist.errors import InputError
from greatmeta_dist.training.regroup import Regrouping

MAX_FRUITLESS_STARTS = 5
"""A group that died so many times without a new checkpoint is not started again."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended, where starting it again would change nothing."""

    kind: Literal["done", "interrupted", "bad input", "failed"]
    metrics: dict[str, Any] | None = None
    message: str = ""

    def unwrap(self) -> dict[str, Any]:
        """The metrics of a training that is done; raises the error that another outcome means."""
        if self.kind == "interrupted":
            raise KeyboardInterrupt
        if self.kind == "bad input":
            raise InputError(self.message)
        if self.kind == "failed":
            raise RuntimeError(self.message)
        assert self.metrics is not None
        return self.metrics


def attempt(train_here: Callable[[], dict[str, Any]]) -> Outcome:
    """Run a worker's training; how it ended.

    Lets ``PeerLost`` and ``Regrouping`` pass, after which the group starts again.
    """
    try:
        return Outcome("done", train_here())
    except KeyboardInterrupt:
        return Outcome("interrupted")
    except InputError as error:
        return Outcome("bad input", message=str(error))
    except (PeerLost, Regrouping):
        raise
    except Exception as error:
        if not isinstance(error, RuntimeError):
            traceback.print_exc()
        return Outcome("failed", message=f"{error}" or type(error).__name__)


class RestartPolicy:
    """Decides whether a group starts again: not where it gets no further."""

    def __init__(self, run: Path):
        self._folder = run / checkpoint.FOLDER
        self._step, self._num_starts = -1, 0
        """The newest checkpoint's step, and the starts since it is the newest one."""

    def check(self, *, is_excused: bool = False) -> Outcome | None:
        """Called before each start; an outcome where another start would be in vain.

        A start is excused, and counts for nothing, where the workers did not die of themselves.
        """
        step = max(checkpoint.steps(self._folder), default=0)
        if step != self._step:
            self._num_starts = 0
        self._num_starts += not is_excused
        self._step = step
        if self._num_starts <= MAX_FRUITLESS_STARTS:
            return None
        return Outcome(
            "failed",
            message=f"workers died {MAX_FRUITLESS_STARTS} times without getting further than step "
            f"{step}; look for what ends them (memory?), then run the same command again",
        )
