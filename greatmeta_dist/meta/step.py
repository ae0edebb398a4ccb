"""One meta step: DESIGN.md section 2, written once for any number of lanes and workers.

The step sees other lanes only through an ``Exchange`` (section 4) and leaves the scheduler and the
optimizers to a ``Coordinator``; ``engine/`` has both.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.profiler import record_function

from greatmeta_dist.meta.adapt import InnerLoop, Layers, Tasks, query_gradients, task_gradients
from greatmeta_dist.meta.batch import TaskBatch
from greatmeta_dist.meta.factors import FactorAverages, Magnitude, own_dots, read_factors
from greatmeta_dist.meta.gradients import MetaGradient
from greatmeta_dist.meta.model import Recommender


class Exchange(Protocol):
    """What lanes may say to each other and to the coordinator.

    A lane's users come in one part or several; lists hold an entry for each part hosted here. Sums
    take gradients as they are made, and may overwrite them.
    """

    def fetch_rows(self) -> list[Tensor]:
        """The current embedding rows [U, d] of each part."""

    def sum(self, parts: Iterable[MetaGradient]) -> Callable[[], list[MetaGradient]]:
        """The sum over all lanes, given back at the rows of each part hosted here.

        Begun; what is returned waits for the other lanes.
        """

    def weigh(self, parts: list["UserStatistics"]) -> list[Tensor]:
        """Tell the coordinator of every user; the weights [B] of each part's."""

    def learn(self, parts: list[Tensor]) -> list[Tensor]:
        """Tell it ∂(Σ L)/∂w [B] of every user, of a look ahead; weights under the φ it learns."""

    def apply(self, parts: Iterable[MetaGradient]) -> None:
        """Sum over all lanes and take the outer optimizer's step on θ."""


UserWeighting = Literal["uniform", "loss", "groups", "look_ahead", "balanced"]
"""What a user weighs: all the same (first-order MAML); as its loss; as its preference group asks
(``TaskBatch.balance``); or what the scheduler says, φ learning either by a look ahead (step 5) or
from what the groups ask."""


@dataclass(frozen=True)
class UserStatistics:
    """What the coordinator hears of B users: the hundred numbers or so of each that go out."""

    losses: Tensor
    """[B, 2] query loss after adaptation, and before it; without scheduler only the first. Not
    finite for a user who is to count nothing."""
    balance: Tensor
    """[B] as ``TaskBatch.balance``."""
    factors: Tensor
    """[B, ·] unscaled, as ``Factors.columns``; means over a user's visits where these are
    remembered; without scheduler no columns."""

    def columns(self) -> Tensor:
        """[B, ·]: everything side by side, to be sent."""
        balance = self.balance.to(self.losses).unsqueeze(1)
        return torch.cat((self.losses, balance, self.factors), 1)

    @classmethod
    def from_columns(cls, columns: Tensor, *, has_scheduler: bool) -> "UserStatistics":
        """The inverse of ``columns``."""
        num_losses = 2 if has_scheduler else 1
        return cls(columns[:, :num_losses], columns[:, num_losses], columns[:, num_losses + 1 :])


@dataclass(frozen=True)
class StepSettings:
    nominal_users: int
    """B of ḡ = (1/B) Σ g: the size of a full global batch."""
    outer_rate: float
    """β of θ'."""
    magnitude: Magnitude
    weighting: UserWeighting
    has_context: bool = False
    """Whether the scheduler sees the support's context besides the factors."""
    is_bf16: bool = False
    """Whether passes through the model run in bf16; what is read from them stays as it is."""

    @property
    def has_scheduler(self) -> bool:
        return self.weighting in ("look_ahead", "balanced")


@dataclass(frozen=True)
class MetaStep:
    """Adapt, weigh, learn the weighting, move θ: DESIGN.md section 2, steps 1 to 6."""

    model: Recommender
    inner: InnerLoop
    settings: StepSettings
    memory: FactorAverages | None = None
    """Of the users hosted here, where the scheduler is to see running means of factors."""

    def __call__(self, parts: Sequence[TaskBatch], layers: Layers, *, exchange: Exchange) -> None:
        """One step on the global batch of which ``parts`` are hosted here; moves θ in place."""
        rows = exchange.fetch_rows()
        with self._precision(rows[0]):
            tasks = [
                task_gradients(
                    self.model,
                    batch,
                    own,
                    layers,
                    self.inner,
                    has_unadapted=self.settings.has_scheduler,
                )
                for batch, own in zip(parts, rows, strict=True)
            ]
        with record_function("meta/factors"):
            said = self._statistics(parts, tasks, exchange)
        with record_function("meta/scheduler"):
            weights = exchange.weigh(said)
            if self.settings.weighting == "look_ahead":
                move = exchange.sum(weighted_sums(tasks, weights))()
                ahead = self._look_ahead(parts, rows, layers, move, exchange)
                weights = exchange.learn(self._weight_gradients(tasks, ahead))
        with record_function("meta/outer update"):
            exchange.apply(weighted_sums(tasks, weights))

    def _precision(self, like: Tensor) -> torch.autocast:
        return torch.autocast(like.device.type, torch.bfloat16, enabled=self.settings.is_bf16)

    def _statistics(
        self, parts: Sequence[TaskBatch], tasks: list[Tasks], exchange: Exchange
    ) -> list[UserStatistics]:
        """Step 3: what is said of each part's users."""
        if not self.settings.has_scheduler:
            factors = [t.losses[:, :0] for t in tasks]
        else:
            factors = self._factors(parts, tasks, exchange)
        return [
            UserStatistics(t.losses, batch.balance, own)
            for batch, t, own in zip(parts, tasks, factors, strict=True)
        ]

    def _factors(
        self, parts: Sequence[TaskBatch], tasks: list[Tasks], exchange: Exchange
    ) -> list[Tensor]:
        """Factor columns of each part's users, as the scheduler reads them."""
        share = 1 / self.settings.nominal_users
        means = exchange.sum(weighted_sums(tasks, [torch.full_like(t.loss, share) for t in tasks]))
        magnitude, has_context = self.settings.magnitude, self.settings.has_context
        each = [own_dots(t) for t in tasks]  # while the sums are on their way
        columns = [
            read_factors(t, dots, mean, magnitude=magnitude, has_context=has_context).columns()
            for t, dots, mean in zip(tasks, each, means(), strict=True)
        ]
        if self.memory is None:
            return columns
        found = []
        for batch, own in zip(parts, columns, strict=True):
            assert batch.place is not None
            found.append(self.memory.recall(batch.place, own))
        return found

    def _look_ahead(
        self,
        parts: Sequence[TaskBatch],
        rows: list[Tensor],
        layers: Layers,
        moves: list[MetaGradient],
        exchange: Exchange,
    ) -> list[MetaGradient]:
        """Step 5: gradient of all users' summed query loss at θ' = θ − β Σ w g, unadapted."""
        rate = self.settings.outer_rate
        ahead = {name: p - rate * moves[0].layers[name] for name, p in layers.items()}
        with self._precision(rows[0]):
            there = [
                query_gradients(self.model, batch, own - rate * move.rows, ahead, self.inner.loss)
                for batch, own, move in zip(parts, rows, moves, strict=True)
            ]
        everyone = [own.new_ones(batch.num_users) for batch, own in zip(parts, rows, strict=True)]
        return exchange.sum(t.weighted_sum(ones) for t, ones in zip(there, everyone, strict=True))()

    def _weight_gradients(self, tasks: list[Tasks], ahead: list[MetaGradient]) -> list[Tensor]:
        """Step 5: how the summed query loss at θ' changes with each user's weight."""
        rate = self.settings.outer_rate
        return [
            -rate * t.adapted.dot_shared(total).sum(1)
            for t, total in zip(tasks, ahead, strict=True)
        ]


def weighted_sums(tasks: list[Tasks], weights: list[Tensor]) -> Iterator[MetaGradient]:
    """Σ_i w_i g_i of each part's users, each made when it is asked for."""
    return (t.adapted.weighted_sum(w) for t, w in zip(tasks, weights, strict=True))
