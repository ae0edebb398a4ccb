"""How lanes exchange sums, rows and per-user numbers, across workers too (DESIGN.md section 4).

Sums run along one binary tree over lanes: within a worker over its neighbouring lanes, then over
workers, so that who holds which lane never changes a bit.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.engine.coordinator import GRADIENT_BOUND, Coordinator
from greatmeta_dist.engine.embeddings import EmbeddingTable
from greatmeta_dist.engine.layers import FlatLayers
from greatmeta_dist.meta.batch import StepBatch
from greatmeta_dist.meta.gradients import MetaGradient
from greatmeta_dist.meta.user_statistics import UserStatistics


def tree_sum(parts: Iterable[list[Tensor]]) -> list[Tensor]:
    """Add lists of tensors along a fixed binary tree, neighbours first; in place, into the left.

    Parts may be made as they are asked for: no more than log₂ of them are held at a time.
    """
    held: list[tuple[int, list[Tensor]]] = []
    for part in parts:
        held.append((0, part))
        while len(held) > 1 and held[-1][0] == held[-2][0]:
            _add_last(held)
    while len(held) > 1:
        _add_last(held)
    return held[0][1]


def _add_last(held: list[tuple[int, list[Tensor]]]) -> None:
    (_, right), (height, left) = held.pop(), held.pop()
    torch._foreach_add_(left, right)
    held.append((height + 1, left))


Received = list[list[Tensor]]
"""What rode along, from each worker."""


@dataclass(frozen=True)
class Piggyback:
    """What rides along with rows: a few tensors for each worker, and the shapes of what comes.

    A message costs its latency however much is in it.
    """

    given: list[list[Tensor]]
    due: list[list[tuple[int, ...]]]

    @classmethod
    def none(cls, communicator: Communicator) -> "Piggyback":
        return cls(_each(communicator, []), _each(communicator, []))


def _each(communicator: Communicator, value: list) -> list[list]:
    return [value] * communicator.size


@dataclass(frozen=True)
class RoutingPlan:
    """Which rows of a batch live where; made once a batch, used by all its exchanges."""

    communicator: Communicator
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
    def of(cls, rows: Tensor, table: EmbeddingTable, communicator: Communicator) -> "RoutingPlan":
        """For distinct, ascending rows [U] of the whole table; takes two messages."""
        pieces = by_owner(rows, table, communicator)
        counts = [[piece.new_tensor([len(piece)])] for piece in pieces]
        due = torch.cat(
            [c for (c,) in communicator.all_to_all(counts, _each(communicator, [(1,)]), "plan")]
        )
        asked = communicator.all_to_all(
            [[p] for p in pieces], [[(n,)] for n in due.tolist()], "plan"
        )
        return cls.from_asked(pieces, [places for (places,) in asked], table, communicator)

    @classmethod
    def from_asked(
        cls,
        pieces: list[Tensor],
        asked: list[Tensor],
        table: EmbeddingTable,
        communicator: Communicator,
    ) -> "RoutingPlan":
        """Once others have told what they need: ``pieces`` are the own needs, ``by_owner``."""
        sent = [len(piece) for piece in pieces]
        if communicator.size == 1:
            return cls(communicator, table, sent, asked, asked[0], [])
        asked = [places.long() for places in asked]
        own = torch.unique(torch.cat(asked))
        return cls(
            communicator, table, sent, asked, own, [torch.searchsorted(own, a) for a in asked]
        )

    def fetch(
        self, read: Callable[[Tensor], Tensor], phase: str, piggyback: Piggyback | None = None
    ) -> tuple[Tensor, Received]:
        """What ``read`` makes of places in a block, [n] → [n, d], for the batch's rows: [U, d]."""
        return self._deliver([read(places) for places in self.asked], phase, piggyback)

    def total(
        self, values: Tensor, phase: str, piggyback: Piggyback | None = None
    ) -> Callable[[], tuple[Tensor, Received]]:
        """Sums over workers of values [U, d] at their batches' rows, at the own ``rows``.

        Begun; what is returned waits for others' values.
        """
        shapes = [(len(places), values.shape[1]) for places in self.asked]
        swapped = self._swap(values.split(self.sent), shapes, phase, piggyback)

        def found() -> tuple[Tensor, Received]:
            received, rode = swapped()
            if self.communicator.size == 1:
                return values, rode
            shape = (len(self.rows), values.shape[1])
            pairs = zip(received, self.positions, strict=True)
            (sums,) = tree_sum([own.new_zeros(shape).index_copy_(0, at, own)] for own, at in pairs)
            return sums, rode

        return found

    def spread(
        self, totals: Tensor, phase: str, piggyback: Piggyback | None = None
    ) -> tuple[Tensor, Received]:
        """Back from ``total``: at the batch's rows [U, d]."""
        if self.communicator.size == 1:
            return totals, list(piggyback.given) if piggyback else []
        return self._deliver(
            [totals.index_select(0, at) for at in self.positions], phase, piggyback
        )

    def total_of_two(
        self, values: Tensor, phase: str, piggyback: Piggyback
    ) -> Callable[[], tuple[Tensor, Received]]:
        """What ``spread`` makes of ``total``, between two workers and in one message.

        Each tells the other its values at rows that the other owns, and at those that the other
        asked it for. Begun, too.
        """
        other, width = 1 - self.communicator.rank, values.shape[1]
        pieces = values.split(self.sent)
        own, theirs = pieces[self.communicator.rank], pieces[other]
        at_own, at_theirs = self.positions[self.communicator.rank], self.positions[other]
        zeros = values.new_zeros(len(self.rows), width)  # what neither touches
        told = zeros.index_copy(0, at_own, own).index_select(0, at_theirs)
        shapes = [(len(places), width) for places in self.asked]
        given = [[told, *each] for each in piggyback.given]
        due = [[(len(theirs), width), *each] for each in piggyback.due]
        swapped = self._swap(pieces, shapes, phase, Piggyback(given, due))

        def found() -> tuple[Tensor, Received]:
            received, rode = swapped()
            here = own + zeros.index_copy_(0, at_theirs, received[other]).index_select(0, at_own)
            there = theirs + rode[other][0]
            totals = (there, here) if self.communicator.rank else (here, there)
            return torch.cat(totals), [rest for _, *rest in rode]

        return found

    def _deliver(
        self, found: Sequence[Tensor], phase: str, piggyback: Piggyback | None
    ) -> tuple[Tensor, Received]:
        """Rows from their owners, those of the lowest first."""
        shapes = [(n, found[0].shape[1]) for n in self.sent]
        received, rode = self._swap(found, shapes, phase, piggyback)()
        return received[0] if self.communicator.size == 1 else torch.cat(received), rode

    def _swap(
        self,
        pieces: Sequence[Tensor],
        shapes: Sequence[tuple[int, int]],
        phase: str,
        piggyback: Piggyback | None,
    ) -> Callable[[], tuple[list[Tensor], Received]]:
        piggyback = piggyback or Piggyback.none(self.communicator)
        parcels = [[p, *own] for p, own in zip(pieces, piggyback.given, strict=True)]
        due = [[shape, *own] for shape, own in zip(shapes, piggyback.due, strict=True)]
        swapped = self.communicator.begin_all_to_all(parcels, due, phase)

        def found() -> tuple[list[Tensor], Received]:
            received = swapped()
            return [first for first, *_ in received], [rest for _, *rest in received]

        return found


def by_owner(rows: Tensor, table: EmbeddingTable, communicator: Communicator) -> list[Tensor]:
    """Distinct, ascending rows [U] of the whole table, as places in each worker's block."""
    if communicator.size == 1:
        return [rows]
    starts = [table.start_of(rank) for rank in range(communicator.size)]
    bounds = torch.searchsorted(rows, torch.tensor(starts[1:]).to(rows)).tolist()
    edges = itertools.pairwise([0, *bounds, len(rows)])
    return [(rows[a:b] - start).int() for (a, b), start in zip(edges, starts, strict=True)]


class LaneExchange:
    """The messages of one step, for the lanes hosted here.

    The plan for the batch after it, and whether any worker asks to stop, ride along.
    """

    next_plan: RoutingPlan
    """For the batch to follow, after ``apply``."""
    is_stopping: bool
    """Whether any worker asks to stop, after ``fetch_rows``."""

    def __init__(
        self,
        step: StepBatch,
        table: EmbeddingTable,
        layers: FlatLayers,
        coordinator: Coordinator | None,
        communicator: Communicator,
        *,
        plan: RoutingPlan | None = None,
        following: Tensor | None = None,
        is_stopping: bool = False,
    ):
        """``coordinator`` is None except on rank 0. ``plan`` is an earlier exchange's
        ``next_plan``, made here where not given; ``following`` are the rows of the next batch."""
        self._step, self._table, self._layers = step, table, layers
        self._coordinator, self._communicator = coordinator, communicator
        self._plan = plan or RoutingPlan.of(step.rows, table, communicator)
        self._next = by_owner(
            step.rows[:0] if following is None else following, table, communicator
        )
        self.is_stopping = is_stopping

    def fetch_rows(self) -> list[Tensor]:
        if self._communicator.size == 1:  # and no waiting for what it told itself
            rows, _ = self._plan.fetch(self._table.fetch, "fetch rows")
            self._due = [len(piece) for piece in self._next]
        else:
            notes = [[piece.new_tensor([len(piece), self.is_stopping])] for piece in self._next]
            piggyback = Piggyback(notes, _each(self._communicator, [(2,)]))
            rows, told = self._plan.fetch(self._table.fetch, "fetch rows", piggyback)
            self._due, flags = torch.stack([note for (note,) in told]).T.tolist()
            self.is_stopping = any(flags)
        return [rows.index_select(0, at) for at in self._step.positions]

    def sum(self, gradients: Iterable[MetaGradient]) -> Callable[[], list[MetaGradient]]:
        layers, rows = self._add_parts(gradients)
        found = self._begin_sum(layers, rows)

        def summed() -> list[MetaGradient]:
            of_a, rows = found()
            total = self._layers.cut(of_a)
            return [MetaGradient(total, rows.index_select(0, at)) for at in self._step.positions]

        return summed

    def _begin_sum(self, layers: Tensor, rows: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
        """Sums over workers: of A, end to end, and of rows at those of the batch."""
        plan, communicator = self._plan, self._communicator
        if communicator.is_fast:
            layers = communicator.all_reduce(layers, "sum")
            added = plan.total(rows, "sum")
            return lambda: (layers, plan.spread(added()[0], "sum")[0])
        if communicator.size == 2:  # Each adds up all of A: they say no more, and all at once.
            piggyback = Piggyback(
                _each(communicator, [layers]), _each(communicator, [tuple(layers.shape)])
            )
            swapped = plan.total_of_two(rows, "sum", piggyback)

            def found_by_two() -> tuple[Tensor, Tensor]:
                totals, received = swapped()
                (theirs,) = received[1 - communicator.rank]
                return layers.add_(theirs), totals

            return found_by_two
        # Each worker adds up a slice of A, as it does its own rows.
        slices = layers.chunk(communicator.size)
        due = _each(communicator, [tuple(slices[0].shape)])
        added = plan.total(rows, "sum", Piggyback([[s] for s in slices], due))

        def found() -> tuple[Tensor, Tensor]:
            own_rows, received = added()
            given = Piggyback(_each(communicator, tree_sum(received)), due)
            spread, pieces = plan.spread(own_rows, "sum", given)
            return torch.cat([piece for (piece,) in pieces]), spread

        return found

    def compute_weights(self, user_statistics: list[UserStatistics]) -> list[Tensor]:
        return self._ask(
            [users.columns() for users in user_statistics],
            self._coordinator.compute_weights if self._coordinator else None,
        )

    def update_scheduler(self, weight_gradients: list[Tensor]) -> list[Tensor]:
        update = self._coordinator.update_scheduler if self._coordinator else None
        return self._ask(weight_gradients, update)

    def _ask(self, parts: list[Tensor], decide: Callable[[Tensor], Tensor] | None) -> list[Tensor]:
        """What the coordinator makes of all users' values: a number for each of each part's."""
        here = torch.cat(parts)
        everyone = self._communicator.gather(here, "statistics")
        found = decide(everyone) if decide is not None and everyone is not None else None
        like = here if here.ndim == 1 else here[:, 0]
        weights = self._communicator.scatter(found, like, "weights")
        return list(weights.split([len(part) for part in parts]))

    def apply(self, gradients: Iterable[MetaGradient]) -> None:
        layers, rows = self._add_parts(gradients)
        given = [[piece] for piece in self._next]
        due: list[list[tuple[int, ...]]] = [[(n,)] for n in self._due]
        if self._communicator.is_fast:
            layers = self._communicator.all_reduce(layers, "outer update")
        else:
            # Of two workers the coordinator adds up all: slices would take another message.
            slices = layers.chunk(self._communicator.size)
            if self._communicator.size == 2:
                slices = layers, layers[:0]
            given = [[*own, piece] for own, piece in zip(given, slices, strict=True)]
            due = [[*own, tuple(slices[self._communicator.rank].shape)] for own in due]
        rows, received = self._plan.total(rows, "outer update", Piggyback(given, due))()
        total: Tensor | None = layers
        if not self._communicator.is_fast:
            (own,) = tree_sum([piece] for _, piece in received)
            total = (
                self._communicator.gather(own, "outer update")
                if self._communicator.size > 2
                else own
            )
        if self._coordinator is not None and total is not None:
            self._coordinator.step(total)
        arrived = self._communicator.begin_broadcast(self._layers.flat, "outer update")
        # The rest while A is on its way.
        if self._coordinator is not None:
            self._coordinator.average()
        self._table.step(self._plan.rows, rows.clamp_(-GRADIENT_BOUND, GRADIENT_BOUND))
        self.next_plan = RoutingPlan.from_asked(
            self._next, [own[0] for own in received], self._table, self._communicator
        )
        arrived()

    def _add_parts(self, parts: Iterable[MetaGradient]) -> tuple[Tensor, Tensor]:
        """Sums over the lanes hosted here, within each lane first: of A, end to end, and zeros that
        make equal slices for all workers; of rows, at those of the batch."""
        each = self._terms(parts)
        *layers, rows = tree_sum(
            tree_sum(itertools.islice(each, n)) for n in self._step.buckets_per_lane
        )
        num_zeros = -sum(layer.numel() for layer in layers) % self._communicator.size
        zeros = rows.new_zeros(num_zeros)
        return torch.cat([*(layer.flatten() for layer in layers), zeros]), rows

    def _terms(self, parts: Iterable[MetaGradient]) -> Iterator[list[Tensor]]:
        """A part's sums: every tensor of A, and the rows among those of the batch."""
        for part, at in zip(parts, self._step.positions, strict=True):
            rows = part.rows
            if len(self._step.positions) > 1:
                shape = (len(self._step.rows), rows.shape[1])
                rows = rows.new_zeros(shape).index_copy_(0, at, rows)
            yield [*(part.layers[name] for name in self._layers), rows]
