"""The messages of one meta step, and why any number of workers gives the same bits.

A step takes its users from K *lanes*, fixed slices of the training users. Each of W workers hosts
K/W neighbouring lanes, holds a block of the embedding rows E and all of A; rank 0 also hosts the
coordinator (DESIGN.md section 4). What two workers do comes to the same bits as what one does,
because every number is computed from the same numbers by the same operations:

1. *One user.* What is computed for one user has the same bits whoever else is in its batch, and
   however far its support is padded. Libraries do not promise this. It is checked for the shapes in
   use when a group starts; where it does not hold, each lane is a batch by itself, wherever it is
   hosted (``batch_invariance.py``).
2. *Sums over users.* Each lane's sum is taken by itself, over the same tensors of the same shapes
   wherever the lane is hosted. The lanes' sums are added along one fixed binary tree over all K
   lanes; rows that a lane does not touch are zeros in it. A worker's lanes are a whole subtree, so
   its own sum is a number of that tree, and the tree over the workers' sums is the rest of it
   (``tree_sum.py``). Of layers that see one row a user no sum is taken by lane while a step has few
   users: their factors are sent, and all users' are multiplied at once, in the order of the lanes
   (``layer_sums.py``).
3. *Who adds.* A sum is taken entry by entry, so different workers may add different entries: each
   worker adds the rows that it owns, and one slice of A. That changes where an addition is done,
   not what is added.
4. *Decisions.* Weights of users are computed by the coordinator alone, from the numbers of all
   users in the order of the lanes, which is rank order and then the order on each worker.
5. *Updates.* A is updated by the coordinator alone and broadcast. Each row is updated by its owner
   alone, and its bits depend on no other row (``embeddings.py``), so the cut into blocks does not
   matter.

With ``cluster.reduction=fast`` sums of A are left to the library's all-reduce: point 2 then does
not hold for A, and results depend on W by rounding.

What a step sends, in order (W > 1); a line is one message, or one there and one back:

============  ===================  ===============================  ===============================
phase         when                 rows and numbers                 piggybacked
============  ===================  ===============================  ===============================
plan          before a training's  how many rows each worker asks
              first step           of each owner, then which
fetch rows    always               rows of E from their owners      how many rows the next batch
                                                                    touches; whether to stop
sum           factors are read     ḡ: row sums to their owners,     slices of A to the workers that
                                   and back                         add them, and back; users' rows
                                                                    of one-row layers to all
statistics    always               each user's numbers to the
                                   coordinator
weights       always               each user's weight back
sum           φ looks ahead        Σ w g, as ḡ                      as for ḡ
sum           φ looks ahead        ∇Σ L(θ'), as ḡ                   as for ḡ
statistics    φ looks ahead        each user's ∂(Σ L)/∂w
weights       φ looks ahead        each user's new weight back
outer update  always               row sums to their owners         slices of A; users' rows of
                                                                    one-row layers to the
                                                                    coordinator; which rows the next
                                                                    batch touches
outer update  W > 2                sums of slices of A to the
                                   coordinator
outer update  always               A's new values to all
============  ===================  ===============================  ===============================

Two workers send each other all of A and all rows that the other needs, so that a sum needs no
message back (``_begin_sum_of_two``; not with ``cluster.reduction=fast``). A slice of A is then all
of it.

Each message costs its latency however little is in it, so whatever else must be sent by then is
piggybacked on a message of rows. While a message travels, there is work that does not need it: the
users' own inner products while ḡ is summed (``meta/step.py``), and rows, running means and the next
plan while A's new values are broadcast.

Shapes: B users of a batch, L its lanes, U distinct rows that the batches hosted here touch
together, V rows of this worker's block that any worker touches, d embedding width, N numbers of A
that are summed by lane, end to end, padded to a multiple of W; K columns as in ``layer_sums.py``.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.engine.coordinator import GRADIENT_BOUND, Coordinator
from greatmeta_dist.engine.embeddings import EmbeddingTable
from greatmeta_dist.engine.layer_sums import SumLayout
from greatmeta_dist.engine.layers import FlatLayers
from greatmeta_dist.engine.routing import NextPlan, Piggyback, RoutingPlan
from greatmeta_dist.engine.tree_sum import tree_of_lanes, tree_sum
from greatmeta_dist.meta.batch import StepBatch
from greatmeta_dist.meta.gradients import LaneSums, Layers, MetaGradient
from greatmeta_dist.meta.user_statistics import UserStatistics


class LaneExchange:
    """The messages of one step, for the lanes hosted here: an ``Exchange`` of ``meta/step.py``.

    Serves one step: ``fetch_rows`` first, then any sums and weights, ``apply`` last. All workers
    call the same methods in the same order.
    """

    next_plan: RoutingPlan
    """The next batch's plan, from ``apply`` on."""

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
        """All workers construct it together.

        ``coordinator`` is None except on rank 0. ``plan`` is the ``next_plan`` of the step before;
        where there is none, it takes two messages to make it here. ``following`` are the rows [U]
        of the next batch, if that is known. ``is_stopping`` asks all workers to stop.
        """
        self._step, self._table, self._layers = step, table, layers
        self._coordinator, self._communicator = coordinator, communicator
        self._plan = plan or RoutingPlan.of(step.rows, table, communicator)
        self._next = NextPlan(
            step.rows[:0] if following is None else following,
            table,
            communicator,
            flag=is_stopping,
        )
        self.is_stopping = is_stopping
        """Whether this worker asks to stop; from ``fetch_rows`` on, whether any worker does."""

    def fetch_rows(self) -> list[Tensor]:
        """The current rows [U of the batch, d] of each batch."""
        rows, counts = self._plan.fetch(self._table.lookup, "fetch rows", self._next.counts())
        self._next_requests, self.is_stopping = self._next.requests(counts)
        return [rows.index_select(0, at) for at in self._step.positions]

    def sum(self, gradients: Iterable[LaneSums]) -> Callable[[], list[MetaGradient]]:
        """Start the sum over all lanes of each batch's gradients by lane.

        Call what is returned to wait for the sum, given at the rows of each batch; all share the
        tensors of A. The gradients are overwritten.
        """
        hosted = self._sum_hosted_lanes(gradients)
        wait = self._begin_sum(hosted)

        def wait_for_sum() -> list[MetaGradient]:
            flat, rows, by_user = wait()
            layers = hosted.layout.layers(flat, by_user)
            return [MetaGradient(layers, rows.index_select(0, at)) for at in self._step.positions]

        return wait_for_sum

    def _begin_sum(self, hosted: "_HostedSums") -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
        """Start adding the workers' own sums; what is returned waits for those of A [N] and of rows
        [U, d], and for all users' rows [B, K]."""
        if self._communicator.is_fast:
            return self._begin_fast_sum(hosted)
        if self._communicator.size == 2:
            return self._begin_sum_of_two(hosted)
        return self._begin_sliced_sum(hosted)

    def _begin_sliced_sum(
        self, hosted: "_HostedSums"
    ) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
        """Each worker adds a slice of A as it adds its own rows: two messages, there and back.

        Were all of A added by one worker, it would receive W times N numbers while the others
        idle. In slices each link carries about N there and N back, as in the best all-reduces.
        A lone worker comes here too: its only slice is all of A, and no message leaves it.
        """
        size, plan, by_user = self._communicator.size, self._plan, hosted.by_user
        slices = hosted.flat.chunk(size)
        slice_shape = tuple(slices[0].shape)
        wait = plan.begin_sum(
            hosted.rows,
            "sum",
            Piggyback(
                [[piece, by_user] for piece in slices],
                [[slice_shape, tuple(by_user.shape)]] * size,
            ),
        )

        def wait_for_sums() -> tuple[Tensor, Tensor, Tensor]:
            row_sums, received = wait()
            slice_sum = tree_sum([slice_term] for slice_term, _ in received)
            piggyback = Piggyback([slice_sum] * size, [[slice_shape]] * size)
            rows_here, slice_sums = plan.return_sums(row_sums, "sum", piggyback)
            flat = torch.cat([piece for (piece,) in slice_sums])
            return flat, rows_here, torch.cat([of_worker for _, of_worker in received])

        return wait_for_sums

    def _begin_sum_of_two(
        self, hosted: "_HostedSums"
    ) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
        """Two workers tell each other everything and both add it: one message.

        As many bytes as in slices, N to the other and N from it, and one latency less. The other's
        sum is added to one's own, on rank 1 in the reverse order: a + b and b + a are the same
        bits, so both have the tree's.
        """
        here = [hosted.flat, hosted.by_user]
        piggyback = Piggyback([here] * 2, [[tuple(tensor.shape) for tensor in here]] * 2)
        wait = self._plan.begin_sum_of_two(hosted.rows, "sum", piggyback)

        def wait_for_sums() -> tuple[Tensor, Tensor, Tensor]:
            rows_here, received = wait()
            others_flat, _ = received[1 - self._communicator.rank]
            by_user = torch.cat([of_worker for _, of_worker in received])
            return hosted.flat.add_(others_flat), rows_here, by_user

        return wait_for_sums

    def _begin_fast_sum(self, hosted: "_HostedSums") -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
        """The library adds A, in whatever order; rows are added by their owners as ever."""
        size, by_user = self._communicator.size, hosted.by_user
        flat = self._communicator.all_reduce(hosted.flat, "sum")
        piggyback = Piggyback([[by_user]] * size, [[tuple(by_user.shape)]] * size)
        wait = self._plan.begin_sum(hosted.rows, "sum", piggyback)

        def wait_for_sums() -> tuple[Tensor, Tensor, Tensor]:
            row_sums, received = wait()
            rows_here, _ = self._plan.return_sums(row_sums, "sum")
            return flat, rows_here, torch.cat([of_worker for (of_worker,) in received])

        return wait_for_sums

    def compute_weights(self, user_statistics: list[UserStatistics]) -> list[Tensor]:
        """The coordinator's weights [B] of each batch's users, from what is known of all users."""
        return self._ask_coordinator(
            [statistics.columns() for statistics in user_statistics],
            self._coordinator.compute_weights if self._coordinator else None,
        )

    def update_scheduler(self, weight_gradients: list[Tensor]) -> list[Tensor]:
        """New weights [B] of each batch's users, once φ has learnt from their ∂(Σ L)/∂w [B]."""
        return self._ask_coordinator(
            weight_gradients, self._coordinator.update_scheduler if self._coordinator else None
        )

    def _ask_coordinator(
        self, values: list[Tensor], compute: Callable[[Tensor], Tensor] | None
    ) -> list[Tensor]:
        """What the coordinator's ``compute`` makes of all users' values.

        ``values`` are [B, ·] of each batch; returned are [B] of each.
        """
        hosted = torch.cat(values)
        everyone = self._communicator.gather(hosted, "statistics")
        results = None
        if compute is not None and everyone is not None:
            results = compute(everyone)
        like = hosted if hosted.ndim == 1 else hosted[:, 0]
        weights = self._communicator.scatter(results, like, "weights")
        return list(weights.split([len(of_batch) for of_batch in values]))

    def apply(self, gradients: Iterable[LaneSums]) -> None:
        """Add each batch's gradients by lane over all lanes, and update θ in place.

        The gradients are overwritten.
        """
        layers, row_sums, requests = self._sum_for_update(self._sum_hosted_lanes(gradients))
        if self._coordinator is not None and layers is not None:
            self._coordinator.step_layers(layers)
        wait = self._communicator.begin_broadcast(self._layers.flat, "outer update")
        # The rest does not need A's new values, so it is done while they travel.
        if self._coordinator is not None:
            self._coordinator.average()
        row_gradient = row_sums.clamp_(-GRADIENT_BOUND, GRADIENT_BOUND)
        self._table.update_rows(self._plan.requested, row_gradient)
        self.next_plan = self._next.plan(requests)
        wait()

    def _sum_for_update(self, hosted: "_HostedSums") -> tuple[Layers | None, Tensor, list[Tensor]]:
        """Add the workers' own sums to where θ is updated.

        Returns A's sum on rank 0, None elsewhere; the sums at the rows requested of this worker
        [V, d]; and the next batch's requests [W].
        """
        communicator, flat = self._communicator, hosted.flat
        is_first, size = communicator.is_first, communicator.size
        if communicator.is_fast:
            flat = communicator.all_reduce(flat, "outer update")
            slices = (flat[:0],) * size
        else:
            slices = self._slices_for_update(flat)
        by_user = hosted.by_user
        to_first = [by_user, *[by_user[:0]] * (size - 1)]
        piggyback = self._next_requests.and_also(
            slices, [tuple(slices[communicator.rank].shape)] * size
        ).and_also(to_first, [tuple(to_first[communicator.rank].shape)] * size)
        row_sums, received = self._plan.begin_sum(hosted.rows, "outer update", piggyback)()
        requests = [tensors[0] for tensors in received]
        if not communicator.is_fast:
            (flat,) = tree_sum([slice_term] for _, slice_term, _ in received)
        if size > 2 and not communicator.is_fast:
            gathered = communicator.gather(flat, "outer update")
            flat = flat if gathered is None else gathered
        if not is_first:
            return None, row_sums, requests
        everyone = torch.cat([of_worker for *_, of_worker in received])
        return hosted.layout.layers(flat, everyone), row_sums, requests

    def _slices_for_update(self, flat: Tensor) -> tuple[Tensor, ...]:
        """The slice of A's sum [N] that each worker is to add.

        Only the coordinator needs the sum. With two workers it adds all of A itself: slices would
        have to be gathered by one more message.
        """
        if self._communicator.size == 2:
            return flat, flat[:0]
        return flat.chunk(self._communicator.size)

    def _sum_hosted_lanes(self, gradients: Iterable[LaneSums]) -> "_HostedSums":
        """Add gradients over the batches of each group of lanes, and then over the lanes here."""
        batches: list[tuple[SumLayout, Tensor]] = []
        terms = self._aligned_terms(gradients, batches)
        sums = (
            tree_of_lanes(tree_sum(itertools.islice(terms, num_batches)))
            for num_batches in self._step.batches_per_group
        )
        flat, rows = tree_sum(sums, self._step.group_heights)
        num_zeros = -len(flat) % self._communicator.size
        if num_zeros:
            flat = torch.cat((flat, flat.new_zeros(num_zeros)))
        (layout, _), *_ = batches
        return _HostedSums(layout, flat, rows, torch.cat([by_user for _, by_user in batches]))

    def _aligned_terms(
        self, gradients: Iterable[LaneSums], batches: list[tuple[SumLayout, Tensor]]
    ) -> Iterator[list[Tensor]]:
        """Each batch's sums by lane as tensors that can be added: A [L, N], and rows [L, U, d].

        A lane's sum has zeros at the rows that only other lanes touch. What is not summed by lane
        is noted in ``batches``.
        """
        num_rows = len(self._step.rows)
        for gradient, at in zip(gradients, self._step.lane_positions, strict=True):
            layout = SumLayout.of(gradient, self._layers)
            batches.append((layout, layout.by_user(gradient)))
            flat = layout.flat(gradient)
            rows, num_lanes, width = gradient.rows, len(flat), gradient.rows.shape[1]
            if at is not None:
                rows = rows.new_zeros(num_lanes * num_rows, width).index_copy_(0, at, rows)
            yield [flat, rows.view(num_lanes, num_rows, width)]


@dataclass(frozen=True)
class _HostedSums:
    """Gradients of the lanes hosted here, added as far as they can be."""

    layout: SumLayout
    flat: Tensor
    """[N] sums of A end to end, with zeros behind them so that all workers' slices are equally
    long."""
    rows: Tensor
    """[U, d] sums of rows."""
    by_user: Tensor
    """[B, K] what is summed by one product over all users, of those hosted here."""
