"""Rows come from their owners, and sums go to them and back."""

import pytest
import torch
from threaded_workers import run_workers

from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.engine.embeddings import EmbeddingTable, block_size
from greatmeta_dist.engine.routing import Piggyback, RoutingPlan, split_by_owner

NUM_ROWS = 11
ROWS = ([0, 3, 4, 10], [3, 5, 6, 7], [], [0, 3, 9])
"""Rows that each of up to four workers touches."""


def whole_table():
    return torch.arange(2.0 * NUM_ROWS).view(NUM_ROWS, 2)


def plan_of(communicator):
    """A worker's plan, and the rows it is for."""
    block = block_size(NUM_ROWS, communicator.size)
    first = communicator.rank * block
    table = EmbeddingTable(
        whole_table()[first : first + block].clone(), rate=0.1, first=first, block=block
    )
    rows = torch.tensor(ROWS[communicator.rank], dtype=torch.int64)
    return RoutingPlan.of(rows, table, communicator), rows


def run(workers, act):
    return run_workers(workers, act) if workers > 1 else [act(Communicator())]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_rows_are_fetched_in_the_batch_s_order(workers):
    def act(communicator):
        plan, rows = plan_of(communicator)
        fetched, _ = plan.fetch(plan.table.lookup, "test")
        return rows, fetched

    for rows, fetched in run(workers, act):
        assert torch.equal(fetched, whole_table()[rows])


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_sums_are_at_the_owners_rows_and_come_back_to_the_batch_s(workers):
    def act(communicator):
        plan, rows = plan_of(communicator)
        values = torch.full((len(rows), 2), 10.0**communicator.rank)
        sums, _ = plan.begin_sum(values, "test")()
        returned, _ = plan.return_sums(sums, "test")
        return plan.requested + plan.table.first, sums, rows, returned

    expected = torch.zeros(NUM_ROWS, 2)
    for rank in range(workers):
        expected[ROWS[rank]] += 10.0**rank
    for owned, sums, rows, returned in run(workers, act):
        assert torch.equal(sums, expected[owned])
        assert torch.equal(returned, expected[rows])


def test_the_sum_of_two_is_the_sum_at_owners_returned():
    def act(communicator):
        plan, rows = plan_of(communicator)
        generator = torch.Generator().manual_seed(communicator.rank)
        values = torch.randn(len(rows), 2, generator=generator)
        short, _ = plan.begin_sum_of_two(values.clone(), "test", Piggyback([[], []], [[], []]))()
        sums, _ = plan.begin_sum(values, "test")()
        return short, plan.return_sums(sums, "test")[0]

    for short, long in run_workers(2, act):
        assert torch.equal(short, long)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_piggybacked_tensors_come_from_each_worker_beside_the_rows(workers):
    def act(communicator):
        plan, rows = plan_of(communicator)
        size, rank = communicator.size, communicator.rank
        notes = [torch.tensor([rank, other]) for other in range(size)]
        piggyback = Piggyback([[note] for note in notes], [[(2,)]] * size)
        more = [torch.tensor([7 + rank])] * size
        fetched, received = plan.fetch(
            plan.table.lookup, "test", piggyback.and_also(more, [(1,)] * size)
        )
        assert torch.equal(fetched, whole_table()[rows])
        return [[tensor.tolist() for tensor in tensors] for tensors in received]

    assert run(workers, act) == [
        [[[other, rank], [7 + other]] for other in range(workers)] for rank in range(workers)
    ]


def test_rows_are_split_into_positions_in_their_owners_blocks():
    def act(communicator):
        plan, _ = plan_of(communicator)
        split = split_by_owner(torch.tensor([0, 2, 3, 8, 9, 10]), plan.table, communicator)
        return [positions.tolist() for positions in split]

    assert run_workers(4, act) == [[[0, 2], [0], [2], [0, 1]]] * 4
