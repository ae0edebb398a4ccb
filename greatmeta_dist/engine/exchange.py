"""How lanes exchange sums, rows and per-user numbers, across workers too (DESIGN.md section 4).

Sums run along one binary tree over lanes: within a worker over its neighbouring lanes, then over
workers, so that who holds which lane never changes a bit.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from greatmeta_dist.engine.coordinator import GRADIENT_BOUND, Coordinator
from greatmeta_dist.engine.embeddings import EmbeddingTable
from greatmeta_dist.engine.world import World
from greatmeta_dist.meta.batch import StepBatch
from greatmeta_dist.meta.gradients import MetaGradient
from greatmeta_dist.meta.step import UserStatistics


def tree_sum(parts: Sequence[Tensor]) -> Tensor:
    """Add tensors along a fixed binary tree."""
    return _tree(parts, lambda part: part)


def _tree(parts: Sequence, make: Callable[..., Tensor]) -> Tensor:
    """The same of what ``make`` makes of each part, no more than log₂ of them at a time."""
    if len(parts) == 1:
        return make(parts[0])
    half = len(parts) // 2
    return _tree(parts[:half], make) + _tree(parts[half:], make)


@dataclass(frozen=True)
class RoutingPlan:
    """Which rows of a batch live where; made once a batch, used by all its exchanges."""

    world: World
    table: EmbeddingTable
    sent: list[int]
    """How many of the batch's rows each worker owns; rows ascend, so do owners."""
    asked: list[Tensor]
    """Places in the own block that each worker needs."""
    rows: Tensor
    """All of those together, distinct and ascending."""
    positions: list[Tensor]
    """For each worker, where its places stand among ``rows``."""

    @classmethod
    def of(cls, rows: Tensor, table: EmbeddingTable, world: World) -> "RoutingPlan":
        """For distinct, ascending rows [U] of the whole table."""
        if world.size == 1:
            return cls(world, table, [len(rows)], [rows], rows, [])
        edges = torch.tensor([table.start_of(r) for r in range(1, world.size)])
        bounds = torch.searchsorted(rows, edges.to(rows)).tolist()
        pieces = [rows[a:b] for a, b in itertools.pairwise([0, *bounds, len(rows)])]
        sent = [len(piece) for piece in pieces]
        counts = torch.tensor(sent, device=rows.device).split(1)
        received = torch.cat(world.all_to_all(counts, [1] * world.size, "plan")).tolist()
        asked = [a - table.first for a in world.all_to_all(pieces, received, "plan")]
        own = torch.unique(torch.cat(asked))
        return cls(world, table, sent, asked, own, [torch.searchsorted(own, a) for a in asked])

    def fetch(self, read: Callable[[Tensor], Tensor], phase: str) -> Tensor:
        """What ``read`` makes of places in a block, [n] → [n, d], for the batch's rows: [U, d]."""
        found = [read(places) for places in self.asked]
        return torch.cat(self.world.all_to_all(found, self.sent, phase))

    def total(self, values: Tensor, phase: str) -> Tensor:
        """Sums over workers of values [U, d] at their batches' rows, at the own ``rows``."""
        if self.world.size == 1:
            return values
        received = self.world.all_to_all(
            values.split(self.sent), [len(a) for a in self.asked], phase
        )
        shape = (len(self.rows), values.shape[1])
        pairs = list(zip(received, self.positions, strict=True))
        return _tree(pairs, lambda pair: pair[0].new_zeros(shape).index_copy_(0, pair[1], pair[0]))

    def spread(self, totals: Tensor, phase: str) -> Tensor:
        """Back from ``total``: at the batch's rows [U, d]."""
        if self.world.size == 1:
            return totals
        found = [totals.index_select(0, at) for at in self.positions]
        return torch.cat(self.world.all_to_all(found, self.sent, phase))


class LaneExchange:
    """The messages of one step, for the lanes hosted here."""

    def __init__(
        self,
        step: StepBatch,
        table: EmbeddingTable,
        layers: dict[str, Tensor],
        coordinator: Coordinator | None,
        world: World,
    ):
        """``coordinator`` is None except on rank 0."""
        self._step, self._table, self._layers = step, table, layers
        self._coordinator, self._world = coordinator, world
        ends = list(itertools.accumulate(step.lanes))
        self._lanes = [slice(a, b) for a, b in itertools.pairwise([0, *ends])]
        self._plan = RoutingPlan.of(step.rows, table, world)

    def fetch_rows(self) -> list[Tensor]:
        rows = self._plan.fetch(self._table.fetch, "fetch rows")
        return [rows.index_select(0, at) for at in self._step.positions]

    def sum(self, parts: list[MetaGradient]) -> list[MetaGradient]:
        total, rows = self._reduce(parts, "sum")
        layers = unflat(self._world.broadcast(total, "sum"), self._layers)
        rows = self._plan.spread(rows, "sum")
        return [MetaGradient(layers, rows.index_select(0, at)) for at in self._step.positions]

    def weigh(self, parts: list[UserStatistics]) -> list[Tensor]:
        return self._ask(
            [part.columns() for part in parts],
            self._coordinator.weigh if self._coordinator else None,
        )

    def learn(self, parts: list[Tensor]) -> list[Tensor]:
        return self._ask(parts, self._coordinator.learn if self._coordinator else None)

    def _ask(self, parts: list[Tensor], decide: Callable[[Tensor], Tensor] | None) -> list[Tensor]:
        """What the coordinator makes of all users' values: a number for each of each part's."""
        here = torch.cat(parts)
        everyone = self._world.gather(here, "statistics")
        found = decide(everyone) if decide is not None and everyone is not None else None
        like = here if here.ndim == 1 else here[:, 0]
        weights = self._world.scatter(found, like, "weights")
        return list(weights.split([len(part) for part in parts]))

    def apply(self, parts: list[MetaGradient]) -> None:
        layers, rows = self._reduce(parts, "outer update")
        if self._coordinator is not None:
            self._coordinator.step(unflat(layers, self._layers))
        self._table.step(self._plan.rows, rows.clamp(-GRADIENT_BOUND, GRADIENT_BOUND))
        share(self._layers, self._world, "outer update")

    def _reduce(self, parts: list[MetaGradient], phase: str) -> tuple[Tensor, Tensor]:
        """Sums over all lanes: of A, flat, on rank 0; of rows, at those of the own block."""
        layers = self._add([flat(part.layers, self._layers) for part in parts])
        if len(parts) == 1:
            rows = parts[0].rows
        else:
            shape = (len(self._step.rows), parts[0].rows.shape[1])
            rows = self._add(
                [
                    part.rows.new_zeros(shape).index_copy_(0, at, part.rows)
                    for part, at in zip(parts, self._step.positions, strict=True)
                ]
            )
        return self._world.reduce(layers, phase), self._plan.total(rows, phase)

    def _add(self, parts: Sequence[Tensor]) -> Tensor:
        """Add within each lane, then over the lanes hosted here."""
        return tree_sum([tree_sum(parts[lane]) for lane in self._lanes])


def flat(tensors: dict[str, Tensor], like: dict[str, Tensor]) -> Tensor:
    """All entries end to end, in the order of ``like``."""
    return torch.cat([tensors[name].detach().flatten() for name in like])


def unflat(values: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of ``flat``, as views."""
    pieces = values.split([tensor.numel() for tensor in like.values()])
    return {
        name: piece.view(tensor.shape)
        for (name, tensor), piece in zip(like.items(), pieces, strict=True)
    }


def share(tensors: dict[str, Tensor], world: World, phase: str) -> None:
    """Make them rank 0's, in place."""
    if world.size == 1:
        return
    values = unflat(world.broadcast(flat(tensors, tensors), phase), tensors)
    if not world.is_first:
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(values[name])
