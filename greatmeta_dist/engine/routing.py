"""Which worker needs which embedding rows, and the messages that carry rows between them.

The table's rows are cut into one block for each worker, its *owner*; a worker's batch touches rows
of any block. A *routing plan* is the answer, for one batch, to two questions: which of the rows
that I touch lie with each owner, and which of my own rows does each worker touch? All workers make
it once a batch, and then send rows along it without further words: an owner knows what to send and
to whom, a receiver knows what comes and where it belongs.

Rows of a batch ascend, and so do the owners' blocks. So the rows that lie with owner 0 stand before
those of owner 1, and what owners send only has to be concatenated in rank order.

Shapes: W workers, U distinct rows that this worker's batch touches, V distinct rows of this
worker's block that any worker touches, d embedding width.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.engine.embeddings import EmbeddingTable
from greatmeta_dist.engine.tree_sum import tree_sum

Shape = tuple[int, ...]
Received = list[list[Tensor]]
"""[W] the piggybacked tensors that came from each worker, in the order they were given there."""


@dataclass(frozen=True)
class Piggyback:
    """A few tensors that travel in a message of rows, besides the rows.

    Each message costs its latency (some 50 µs on a fast network), however little is in it. So a
    step sends few messages and piggybacks on them what else has to be sent by then.
    """

    outgoing: list[list[Tensor]]
    """[W] what goes to each worker: the same number of tensors, of the same dtypes, for each."""
    incoming_shapes: list[list[Shape]]
    """[W] shapes of what each worker sends here."""

    @classmethod
    def nothing(cls, communicator: Communicator) -> "Piggyback":
        """Rows alone."""
        return cls([[]] * communicator.size, [[]] * communicator.size)

    def and_also(self, outgoing: Sequence[Tensor], incoming_shapes: Sequence[Shape]) -> "Piggyback":
        """The same with one tensor more to, and from, each worker, after the others."""
        return Piggyback(
            [[*others, own] for others, own in zip(self.outgoing, outgoing, strict=True)],
            [
                [*others, shape]
                for others, shape in zip(self.incoming_shapes, incoming_shapes, strict=True)
            ],
        )


@dataclass(frozen=True)
class RoutingPlan:
    """Which rows of a batch lie with which worker, and which of one's own the others touch."""

    communicator: Communicator
    table: EmbeddingTable
    num_from_owner: list[int]
    """[W] how many of the batch's U rows each worker owns."""
    requests: list[Tensor]
    """[W] the rows of this worker's block that each worker's batch touches, as positions in the
    block; ascending."""
    requested: Tensor
    """[V] all of these together, as positions in the block: distinct, ascending."""
    positions: list[Tensor]
    """[W] where each worker's requests stand in ``requested``; empty for a lone worker, whose only
    request is ``requested``."""

    @classmethod
    def of(cls, rows: Tensor, table: EmbeddingTable, communicator: Communicator) -> "RoutingPlan":
        """The plan for distinct, ascending rows [U] of the whole table.

        Takes two messages: how many rows are requested, so that all know what to expect, and
        which. Between batches of a training they are piggybacked instead: see ``NextPlan``.
        """
        split = split_by_owner(rows, table, communicator)
        counts = [[own.new_tensor([len(own)])] for own in split]
        received = communicator.all_to_all(counts, [[(1,)]] * communicator.size, "plan")
        shapes = [[(n,)] for n in torch.cat([count for (count,) in received]).tolist()]
        requests = communicator.all_to_all([[own] for own in split], shapes, "plan")
        return cls.from_requests(split, [own for (own,) in requests], table, communicator)

    @classmethod
    def from_requests(
        cls,
        split: list[Tensor],
        requests: list[Tensor],
        table: EmbeddingTable,
        communicator: Communicator,
    ) -> "RoutingPlan":
        """The plan once all have sent their requests: ``split`` are those of this worker, by owner
        (``split_by_owner``), ``requests`` those that it received, by requester."""
        num_from_owner = [len(own) for own in split]
        if communicator.size == 1:
            return cls(communicator, table, num_from_owner, requests, requests[0], [])
        requests = [rows.long() for rows in requests]
        requested = torch.unique(torch.cat(requests))
        positions = [torch.searchsorted(requested, rows) for rows in requests]
        return cls(communicator, table, num_from_owner, requests, requested, positions)

    def fetch(
        self,
        lookup: Callable[[Tensor], Tensor],
        phase: str,
        piggyback: Piggyback | None = None,
    ) -> tuple[Tensor, Received]:
        """The batch's rows [U, d], from their owners. One message.

        ``lookup`` reads rows of a block: positions [n] → values [n, d].
        """
        return self._send_to_requesters([lookup(rows) for rows in self.requests], phase, piggyback)

    def begin_sum(
        self, values: Tensor, phase: str, piggyback: Piggyback | None = None
    ) -> Callable[[], tuple[Tensor, Received]]:
        """Start adding all workers' values [U, d] at their batches' rows, at the rows' owners.

        One message. Call what is returned to wait for the sums at ``requested`` [V, d].
        """
        shapes = [(len(rows), values.shape[1]) for rows in self.requests]
        wait = self._begin_exchange(values.split(self.num_from_owner), shapes, phase, piggyback)

        def wait_for_sums() -> tuple[Tensor, Received]:
            received, piggybacked = wait()
            if self.communicator.size == 1:
                return values, piggybacked
            # A row that a worker does not touch counts zero there, as a lane's does in the sum
            # over one worker's lanes: the tree has the same terms for any number of workers.
            shape = (len(self.requested), values.shape[1])
            (sums,) = tree_sum(
                [own.new_zeros(shape).index_copy_(0, at, own)]
                for own, at in zip(received, self.positions, strict=True)
            )
            return sums, piggybacked

        return wait_for_sums

    def return_sums(
        self, sums: Tensor, phase: str, piggyback: Piggyback | None = None
    ) -> tuple[Tensor, Received]:
        """Send the sums of ``begin_sum`` [V, d] to every worker whose batch touches their rows.

        Returns the sums at the rows of this worker's own batch, [U, d]. One message.
        """
        if self.communicator.size == 1:
            return sums, list(piggyback.outgoing) if piggyback else []
        by_requester = [sums.index_select(0, at) for at in self.positions]
        return self._send_to_requesters(by_requester, phase, piggyback)

    def begin_sum_of_two(
        self, values: Tensor, phase: str, piggyback: Piggyback
    ) -> Callable[[], tuple[Tensor, Received]]:
        """Start ``begin_sum`` and ``return_sums`` of exactly two workers, in one message for both.

        Call what is returned to wait for the sums at the batch's rows, [U, d].

        The owner need not be asked for a sum of two terms: each worker sends the other its values
        at all rows that the other touches, and both add the same two numbers. a + b and b + a are
        the same bits, so the sums are those of the tree; and as many bytes travel as there and
        back, with one latency saved. Each sends, of its values,

        - those at rows that the other owns, which the plan sends there anyway; and
        - those at its own rows that the other requested, zero where it does not touch them itself.
        """
        rank, width = self.communicator.rank, values.shape[1]
        other = 1 - rank
        split = values.split(self.num_from_owner)
        at_own_rows, at_others_rows = split[rank], split[other]
        for_requester = self._at_requests(at_own_rows, source=rank, target=other)
        # What is meant for the other stands in this worker's own entry too, which goes nowhere.
        piggyback = Piggyback(
            [[for_requester, *rest] for rest in piggyback.outgoing],
            [[(len(at_others_rows), width), *rest] for rest in piggyback.incoming_shapes],
        )
        shapes = [(len(rows), width) for rows in self.requests]
        wait = self._begin_exchange(split, shapes, phase, piggyback)

        def wait_for_sums() -> tuple[Tensor, Received]:
            received, piggybacked = wait()
            own_sums = at_own_rows + self._at_requests(received[other], source=other, target=rank)
            others_sums = at_others_rows + piggybacked[other][0]
            by_owner = (others_sums, own_sums) if rank else (own_sums, others_sums)
            return torch.cat(by_owner), [rest for _, *rest in piggybacked]

        return wait_for_sums

    def _at_requests(self, values: Tensor, *, source: int, target: int) -> Tensor:
        """Values at the requests of worker ``source`` [n, d], taken at those of ``target`` [m, d].

        Zero at the rows that only ``target`` requests.
        """
        at_requested = values.new_zeros(len(self.requested), values.shape[1])  # [V, d]
        at_requested.index_copy_(0, self.positions[source], values)
        return at_requested.index_select(0, self.positions[target])

    def _send_to_requesters(
        self, values: Sequence[Tensor], phase: str, piggyback: Piggyback | None
    ) -> tuple[Tensor, Received]:
        """Send values at each worker's requests [n, d]; those received at the batch's rows."""
        shapes = [(n, values[0].shape[1]) for n in self.num_from_owner]
        received, piggybacked = self._begin_exchange(values, shapes, phase, piggyback)()
        if self.communicator.size == 1:
            return received[0], piggybacked
        return torch.cat(received), piggybacked  # owners in rank order: rows ascending

    def _begin_exchange(
        self,
        values: Sequence[Tensor],
        incoming_shapes: Sequence[tuple[int, int]],
        phase: str,
        piggyback: Piggyback | None,
    ) -> Callable[[], tuple[list[Tensor], Received]]:
        """Start sending each worker its values, and the piggybacked tensors behind them."""
        piggyback = piggyback or Piggyback.nothing(self.communicator)
        wait = self.communicator.begin_all_to_all(
            [[own, *rest] for own, rest in zip(values, piggyback.outgoing, strict=True)],
            [
                [shape, *rest]
                for shape, rest in zip(incoming_shapes, piggyback.incoming_shapes, strict=True)
            ],
            phase,
        )

        def wait_for_both() -> tuple[list[Tensor], Received]:
            received = wait()
            return [own for own, *_ in received], [rest for _, *rest in received]

        return wait_for_both


class NextPlan:
    """The plan of the next batch, made by what piggybacks on two messages of this one's step.

    The first message carries how many rows are requested, and a flag; the second one the requests.
    """

    def __init__(
        self, rows: Tensor, table: EmbeddingTable, communicator: Communicator, *, flag: bool
    ):
        """For the next batch's distinct, ascending rows [U] of the whole table.

        ``flag`` is a bit that this worker has to tell the others.
        """
        self._table, self._communicator = table, communicator
        self._split = split_by_owner(rows, table, communicator)
        self._flag = flag

    def counts(self) -> Piggyback:
        """For the first message: the number of rows requested of each owner, and the flag."""
        if self._communicator.size == 1:
            # Reading a count back from a tensor would make a GPU's host wait for it.
            return Piggyback.nothing(self._communicator)
        notes = [[own.new_tensor([len(own), self._flag])] for own in self._split]
        return Piggyback(notes, [[(2,)]] * self._communicator.size)

    def requests(self, counts: Received) -> tuple[Piggyback, bool]:
        """For the second message, from what came with the first: the requests; and whether any
        worker's flag is set."""
        num_requested, any_flag = [len(own) for own in self._split], self._flag
        if self._communicator.size > 1:
            num_requested, flags = torch.stack([note for (note,) in counts]).T.tolist()
            any_flag = any(flags)
        return Piggyback([[own] for own in self._split], [[(n,)] for n in num_requested]), any_flag

    def plan(self, requests: list[Tensor]) -> RoutingPlan:
        """The plan, from the requests [W] that came with the second message."""
        return RoutingPlan.from_requests(self._split, requests, self._table, self._communicator)


def split_by_owner(rows: Tensor, table: EmbeddingTable, communicator: Communicator) -> list[Tensor]:
    """Distinct, ascending rows [U] of the whole table, split by owner, as positions in its block.

    The positions are int32, half the bytes of int64 on the wire; a lone worker's rows stay as they
    are.
    """
    if communicator.size == 1:
        return [rows]
    starts = [table.first_row_of(rank) for rank in range(communicator.size)]
    bounds = torch.searchsorted(rows, torch.tensor(starts[1:]).to(rows)).tolist()
    slices = itertools.pairwise([0, *bounds, len(rows)])
    return [(rows[a:b] - start).int() for (a, b), start in zip(slices, starts, strict=True)]
