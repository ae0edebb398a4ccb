"""Users who count zero because their loss or gradient is not finite: named, and not too many."""

import itertools

import torch
from torch import Tensor

from greatmeta_dist.config import Config
from greatmeta_dist.display import Display
from greatmeta_dist.engine.communicator import Communicator

MAX_NAMED_USERS = 10
"""Users named at a time."""


class NonfiniteUsers:
    """Collects the users of each step, and says which of them counted nothing."""

    def __init__(self, config: Config, communicator: Communicator, display: Display):
        self._config, self._communicator, self._display = config, communicator, display
        self._is_finite: list[Tensor] = []
        """[users] of each step since the last check; on rank 0."""
        self._users: list[list[str]] = []
        """The users of each of these steps that are hosted here."""
        self._named: set[str] = set()

    def collect(self, is_finite: Tensor | None, users: list[str]) -> None:
        """A step's users; ``is_finite`` [users of all workers] is known on rank 0."""
        if is_finite is not None:
            self._is_finite.append(is_finite)
        self._users.append(users)

    def check(self, step: int) -> None:
        """Name the nonfinite users since the last check; all workers call it together.

        Each worker knows the names of its own users. Raises ``RuntimeError`` where they are more
        than ``train.max_nonfinite_fraction``.
        """
        is_nonfinite, users = None, self._users
        if self._communicator.is_first:
            is_nonfinite = (~torch.stack(self._is_finite)).cpu()
        self._is_finite, self._users = [], []
        is_any = is_nonfinite is not None and bool(is_nonfinite.any())
        if not self._communicator.broadcast_object(is_any):
            return
        by_worker = self._communicator.gather_objects(users)
        if by_worker is None or is_nonfinite is None:
            return
        names = [list(itertools.chain(*of_step)) for of_step in zip(*by_worker, strict=True)]
        self._name(step, is_nonfinite, names)

    def _name(self, step: int, is_nonfinite: Tensor, names: list[list[str]]) -> None:
        """Name new users of ``is_nonfinite`` [steps, users], whose ``names`` stand likewise."""
        share = float(is_nonfinite.double().mean())
        limit = self._config.train.max_nonfinite_fraction
        positions = is_nonfinite.nonzero().tolist()
        if share > limit:
            positions = positions[:MAX_NAMED_USERS]
        new = sorted({names[number][at] for number, at in positions} - self._named)
        self._named.update(new[:MAX_NAMED_USERS])  # the others are named when they are met again
        if new:
            more = f" and {len(new) - MAX_NAMED_USERS} more" if len(new) > MAX_NAMED_USERS else ""
            self._display.say(
                f"left out up to step {step}, because their loss or gradient is not finite: "
                f"users {', '.join(new[:MAX_NAMED_USERS])}{more}"
            )
        if share > limit:
            inner, train = self._config.inner, self._config.train
            raise RuntimeError(
                f"the loss or gradient of {share:.1%} of the users is not finite, to step {step}, "
                f"and train.max_nonfinite_fraction is {limit:g}: training diverged, or the data "
                f"holds extreme values; lower inner.learning_rate (now {inner.learning_rate:g}) or "
                f"train.learning_rate (now {train.learning_rate:g}), or mend these users"
            )
