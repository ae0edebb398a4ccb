"""Workers that share lanes get the bits of one worker that has them all, in few messages."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_tasks import make_tasks
from threaded_workers import run_workers

from greatmeta_dist.batching.collate import build_batch
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.engine.coordinator import Coordinator
from greatmeta_dist.engine.embeddings import EmbeddingTable, block_size
from greatmeta_dist.engine.lane_exchange import LaneExchange
from greatmeta_dist.engine.layers import FlatLayers
from greatmeta_dist.engine.routing import RoutingPlan
from greatmeta_dist.meta.batch import StepBatch
from greatmeta_dist.meta.gradients import LaneSums

LANES = ([[0, 1]], [[2], [3]], [[4, 5]], [[6], [0]])
"""Users of each length bucket of each of four lanes."""
OF_PAIR = ([[0, 1, 2]], [[4, 5, 6]])
"""The same of two lanes."""


class Table(EmbeddingTable):
    """Notes its updates among a communicator's events."""

    events: list[str]

    def update_rows(self, rows, gradient):
        self.events.append("rows updated")
        super().update_rows(rows, gradient)


class Hosted:
    """What a worker hosts: some of the lanes, a block of rows, A; and a gradient of each bucket."""

    def __init__(self, communicator, lanes, width=6):
        self.communicator = communicator
        tasks = make_tasks(np.random.default_rng(0))
        per_worker = len(lanes) // communicator.size
        first_lane = communicator.rank * per_worker
        hosted = range(first_lane, first_lane + per_worker)
        batches = [
            [
                build_batch(
                    tasks.table,
                    tasks.items,
                    np.array(users),
                    has_support_gradient=True,
                    has_row_norms=False,
                )
                for users in lanes[lane]
            ]
            for lane in hosted
        ]
        self.step = StepBatch.of(batches)
        block = block_size(tasks.num_rows, communicator.size)
        first = communicator.rank * block
        weight = torch.zeros(tasks.num_rows, width)
        self.table = Table(weight[first : first + block], rate=0.1, first=first, block=block)
        self.table.events = getattr(communicator, "events", [])
        self.layers = FlatLayers(
            {"a": torch.zeros(3, 5), "few.weight": torch.zeros(4, 7), "b": torch.zeros(1)}
        )
        self.coordinator = None
        if communicator.is_first:
            self.coordinator = Coordinator(
                self.layers, None, weighting="uniform", outer_rate=0.1, scheduler_rate=0.0
            )
        self.gradients = [
            gradient
            for lane, of_lane in zip(hosted, batches, strict=True)
            for gradient in self._gradients(lane, of_lane, width)
        ]

    def _gradients(self, lane, batches, width):
        """Numbers of very different sizes, whose sum depends on the order of its terms."""
        generator = torch.Generator().manual_seed(lane)
        scale = 10.0 ** (2 * lane % 5)
        for batch in batches:
            layers = {
                name: scale * torch.randn((1, *p.shape), generator=generator)
                for name, p in self.layers.items()
                if name != "few.weight"
            }
            rows = scale * torch.randn(len(batch.rows), width, generator=generator)
            delta = scale * torch.randn(batch.num_users, 4, generator=generator)
            inputs = torch.randn(batch.num_users, 7, generator=generator)
            yield LaneSums(layers, rows, {"few": (delta, inputs)})

    def copies(self):
        """The gradients, for those who overwrite them."""
        return [
            replace(g, layers={k: v.clone() for k, v in g.layers.items()}, rows=g.rows.clone())
            for g in self.gradients
        ]

    def exchange(self, **options):
        return LaneExchange(
            self.step, self.table, self.layers, self.coordinator, self.communicator, **options
        )


def test_step_rows_are_the_union_of_the_lanes():
    tasks = make_tasks(np.random.default_rng(0))
    lanes = [
        build_batch(tasks.table, tasks.items, part, has_support_gradient=True, has_row_norms=True)
        for part in np.array_split(np.arange(7), 3)
    ]
    step = StepBatch.of([lanes[:2], lanes[2:]])
    assert step.rows.tolist() == sorted(set().union(*(b.rows.tolist() for b in lanes)))
    for batch, at in zip(lanes, step.positions, strict=True):
        assert torch.equal(step.rows[at], batch.rows)


def two_steps(communicator):
    """The sums of each of two steps on the same lanes, and A and rows after both."""
    hosted = Hosted(communicator, LANES)
    sums, plan = [], None
    for _ in range(2):
        exchange = hosted.exchange(plan=plan, following=hosted.step.rows)
        exchange.fetch_rows()
        sums.append(exchange.sum(hosted.copies())())
        exchange.apply(hosted.copies())
        plan = exchange.next_plan
    return sums, hosted.layers.flat, hosted.table.weight


@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_sums_and_updates_to_the_same_bits(workers):
    one_sums, one_layers, one_rows = two_steps(Communicator())
    by_worker = run_workers(workers, two_steps)
    for step, expected in enumerate(one_sums):
        totals = [total for sums, *_ in by_worker for total in sums[step]]
        for total, of_one in zip(totals, expected, strict=True):
            assert torch.equal(total.rows, of_one.rows)
            for name, value in total.layers.items():
                assert torch.equal(value, of_one.layers[name])
    for _, layers, _ in by_worker:
        assert torch.equal(layers, one_layers)
    assert torch.equal(torch.cat([rows for *_, rows in by_worker]), one_rows)
    assert one_rows.any()
    assert one_layers.all()


@pytest.mark.parametrize("workers", [2, 4])
def test_fast_sums_are_those_of_the_tree_but_for_rounding(workers):
    one_sums, one_layers, _ = two_steps(Communicator())
    for sums, layers, _ in run_workers(workers, two_steps, is_fast=True):
        torch.testing.assert_close(layers, one_layers)
        for name, value in sums[0][0].layers.items():
            torch.testing.assert_close(value, one_sums[0][0].layers[name])


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_plan_made_on_the_way_is_the_one_made_by_itself(workers):
    def plans(communicator):
        hosted = Hosted(communicator, LANES)
        exchange = hosted.exchange(following=hosted.step.rows)
        exchange.fetch_rows()
        exchange.apply(hosted.copies())
        return exchange.next_plan, RoutingPlan.of(hosted.step.rows, hosted.table, communicator)

    run = run_workers(workers, plans) if workers > 1 else [plans(Communicator())]
    for piggybacked, alone in run:
        assert piggybacked.num_from_owner == alone.num_from_owner
        assert torch.equal(piggybacked.requested, alone.requested)
        for ours, theirs in zip(piggybacked.requests, alone.requests, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_all_workers_hear_that_one_asks_to_stop(workers):
    def is_stopping(asks):
        def act(communicator):
            exchange = Hosted(communicator, LANES).exchange(
                is_stopping=asks and communicator.rank == workers - 1
            )
            exchange.fetch_rows()
            return exchange.is_stopping

        return run_workers(workers, act) if workers > 1 else [act(Communicator())]

    assert is_stopping(True) == [True] * workers
    assert is_stopping(False) == [False] * workers


@pytest.mark.parametrize("width", [1, 6])
def test_two_workers_sum_in_one_message(width):
    def act(communicator):
        hosted = Hosted(communicator, OF_PAIR, width)
        exchange = hosted.exchange()
        (total,) = exchange.sum(hosted.copies())()
        return hosted.step.rows, hosted.gradients[0], total, communicator.events

    by_worker = run_workers(2, act)
    size = 1 + max(int(rows.max()) for rows, *_ in by_worker)
    expected = torch.zeros(size, width)
    for rows, gradient, _, _ in by_worker:
        expected[rows] += gradient.rows
    shared = np.intersect1d(by_worker[0][0], by_worker[1][0])
    assert 0 < len(shared) < min(len(rows) for rows, *_ in by_worker)
    for rows, _, total, events in by_worker:
        assert events.count("sum") == 1
        assert torch.equal(total.rows, expected[rows])
        for name in ("a", "b"):
            terms = [gradient.layers[name][0] for _, gradient, *_ in by_worker]
            assert torch.equal(total.layers[name], terms[0] + terms[1])
        delta, inputs = (
            torch.cat(values)
            for values in zip(*(g.outer_products["few"] for _, g, *_ in by_worker), strict=True)
        )
        assert torch.equal(total.layers["few.weight"], delta.T @ inputs)


def test_rows_are_updated_while_a_is_on_its_way():
    def act(communicator):
        hosted = Hosted(communicator, OF_PAIR)
        exchange = hosted.exchange()
        exchange.fetch_rows()
        exchange.apply(hosted.copies())
        return hosted.layers.flat, communicator.events

    (coordinators, first), (others, second) = run_workers(2, act)
    for events in (first, second):
        assert events[-3:] == ["outer update begun", "rows updated", "outer update awaited"]
    assert torch.equal(coordinators, others)
    assert others.any()


def test_weights_come_back_to_the_buckets_whose_users_they_are_of():
    def act(communicator):
        hosted = Hosted(communicator, LANES)
        if hosted.coordinator:
            hosted.coordinator.update_scheduler = lambda values: 2 * values
        values = torch.arange(2.0) + 10 * communicator.rank
        sizes = [batch.num_users for batch in hosted.step.batches]
        return hosted.exchange().update_scheduler(list(values.split(sizes)))

    weights = run_workers(4, act)
    assert [len(of_worker) for of_worker in weights] == [1, 2, 1, 2]
    for rank, of_worker in enumerate(weights):
        assert torch.cat(of_worker).tolist() == [20.0 * rank, 20.0 * rank + 2]
