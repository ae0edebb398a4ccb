"""One meta step: DESIGN.md section 2, written once for any number of lanes and workers.

The step sees other lanes only through an ``Exchange`` (section 4) and leaves the scheduler and the
optimizers to a ``Coordinator``; ``engine/`` has both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.profiler import record_function

from greatmeta_dist.meta.adapt import InnerLoop, Layers, Tasks, query_gradients, task_gradients
from greatmeta_dist.meta.batch import TaskBatch
from greatmeta_dist.meta.factors import LEAST_LOSS, Magnitude, read_factors
from greatmeta_dist.meta.gradients import MetaGradient
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.meta.scheduler import likelihood_slopes


class Exchange(Protocol):
    """What lanes may say to each other.

    A lane's users come in one part or several; lists hold an entry for each part hosted here.
    """

    def fetch_rows(self) -> list[Tensor]:
        """The current embedding rows [U, d] of each part."""

    def sum(self, parts: list[MetaGradient]) -> list[MetaGradient]:
        """The sum over all lanes, given back at the rows of each part hosted here."""

    def gather(self, parts: list[Tensor]) -> Tensor:
        """Per-user values of all parts [all users, ·], in lane order, for the coordinator."""

    def scatter(self, values: Tensor) -> list[Tensor]:
        """The inverse of ``gather``: to each part hosted here, its users'."""

    def apply(self, parts: list[MetaGradient]) -> None:
        """Sum over all lanes and take the outer optimizer's step on θ."""


class Coordinator(Protocol):
    """Who turns all users' factors into weights; holds φ."""

    def weigh(self, factors: Tensor) -> Tensor:
        """Weights [all users] under the present φ."""

    def learn(self, factors: Tensor, slopes: Tensor) -> Tensor:
        """Move φ along ∂L_φ/∂w [all users]; weights under the new φ."""


Weighing = Literal["uniform", "loss", "groups", "look_ahead", "balanced"]
"""What a user weighs: all the same (first-order MAML); as its loss; as its preference group's share
asks (``TaskBatch.balance``); or what the scheduler says, φ learning either by a look ahead (step 5)
or from those shares."""


@dataclass(frozen=True)
class StepSettings:
    nominal_users: int
    """B of ḡ = (1/B) Σ g: the size of a full global batch."""
    outer_rate: float
    """β of θ'."""
    magnitude: Magnitude
    weighing: Weighing
    has_context: bool = False
    """Whether the scheduler sees the support's context besides the factors."""
    is_bf16: bool = False
    """Whether passes through the model run in bf16; what is read from them stays as it is."""

    @property
    def has_scheduler(self) -> bool:
        return self.weighing in ("look_ahead", "balanced")


@dataclass(frozen=True)
class StepReport:
    """What the coordinator knows of a step, for the records; all users of the global batch."""

    losses: Tensor
    """[users, 2] query loss after adaptation, and before it; without scheduler only the first."""
    weights: Tensor
    """[users] w*, which moved θ."""
    first_weights: Tensor
    """[users] w, before φ moved."""
    factors: Tensor | None
    """[users, ·] raw, as ``Factors.columns``; None without scheduler."""


@dataclass(frozen=True)
class MetaStep:
    """Adapt, weigh, learn the weighing, move θ: DESIGN.md section 2, steps 1 to 6."""

    model: Recommender
    inner: InnerLoop
    settings: StepSettings

    def __call__(
        self,
        parts: Sequence[TaskBatch],
        layers: Layers,
        *,
        exchange: Exchange,
        coordinator: Coordinator,
    ) -> StepReport:
        """One step on the global batch of which ``parts`` are hosted here; moves θ in place."""
        has_scheduler = self.settings.has_scheduler
        rows = exchange.fetch_rows()
        with self._precision(rows[0]):
            tasks = [
                task_gradients(
                    self.model, batch, own, layers, self.inner, has_unadapted=has_scheduler
                )
                for batch, own in zip(parts, rows, strict=True)
            ]
        losses = exchange.gather([t.losses for t in tasks])
        factors = None
        if has_scheduler:
            with record_function("meta/factors"):
                factors = exchange.gather(self._factors(tasks, exchange))
            with record_function("meta/scheduler"):
                first = coordinator.weigh(factors)
                if self.settings.weighing == "balanced":
                    slopes = likelihood_slopes(first, exchange.gather([b.balance for b in parts]))
                else:
                    move = exchange.sum(weighted_sums(tasks, exchange.scatter(first)))
                    ahead = self._look_ahead(parts, rows, layers, move, exchange)
                    slopes = exchange.gather(self._slopes(tasks, ahead)) / len(losses)
                weights = coordinator.learn(factors, slopes)
        else:
            first = weights = self._fixed_weights(losses[:, 0], parts, exchange)
        with record_function("meta/outer update"):
            exchange.apply(weighted_sums(tasks, exchange.scatter(weights)))
        return StepReport(losses, weights, first, factors)

    def _precision(self, like: Tensor) -> torch.autocast:
        return torch.autocast(like.device.type, torch.bfloat16, enabled=self.settings.is_bf16)

    def _factors(self, tasks: list[Tasks], exchange: Exchange) -> list[Tensor]:
        """Step 3: factor columns of each part's users."""
        share = 1 / self.settings.nominal_users
        means = exchange.sum(weighted_sums(tasks, [torch.full_like(t.loss, share) for t in tasks]))
        settings = self.settings
        return [
            read_factors(
                t, mean, magnitude=settings.magnitude, has_context=settings.has_context
            ).columns()
            for t, mean in zip(tasks, means, strict=True)
        ]

    def _fixed_weights(
        self, losses: Tensor, parts: Sequence[TaskBatch], exchange: Exchange
    ) -> Tensor:
        """Weights that nothing is learnt for, from the losses [users] or the groups."""
        score = torch.ones_like(losses)
        if self.settings.weighing == "loss":
            score = losses.clamp(min=LEAST_LOSS)
        elif self.settings.weighing == "groups":
            score = exchange.gather([b.balance for b in parts])
        return score / score.sum()

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
        return exchange.sum([t.weighted_sum(ones) for t, ones in zip(there, everyone, strict=True)])

    def _slopes(self, tasks: list[Tasks], ahead: list[MetaGradient]) -> list[Tensor]:
        """Step 5: how the summed query loss at θ' changes with each user's weight."""
        rate = self.settings.outer_rate
        return [
            -rate * t.adapted.dot_shared(total).sum(1)
            for t, total in zip(tasks, ahead, strict=True)
        ]


def weighted_sums(tasks: list[Tasks], weights: list[Tensor]) -> list[MetaGradient]:
    """Σ_i w_i g_i of each part's users."""
    return [t.adapted.weighted_sum(w) for t, w in zip(tasks, weights, strict=True)]
