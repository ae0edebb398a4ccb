"""What two workers say to each other, and what each does meanwhile."""

import queue
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from random_tasks import make_tasks

from greatmeta_dist.batching.collate import build_batch
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.engine.coordinator import Coordinator
from greatmeta_dist.engine.embeddings import EmbeddingTable
from greatmeta_dist.engine.exchange import LaneExchange
from greatmeta_dist.engine.layers import FlatLayers
from greatmeta_dist.meta.batch import StepBatch
from greatmeta_dist.meta.gradients import MetaGradient
from greatmeta_dist.meta.weightings.uniform import Uniform

USERS = ([0, 1, 2, 3], [4, 5, 6])


class Pair(Communicator):
    """One of two workers in threads of one process."""

    size = 2

    def __init__(self, rank, inboxes, events):
        super().__init__()
        self.rank, self._events = rank, events
        self._inbox, self._outbox = inboxes[rank], inboxes[1 - rank]

    def _heard(self):
        return self._inbox.get(timeout=30)

    def begin_all_to_all(self, parcels, shapes, phase):
        self._events.append(phase)
        self._outbox.put([tensor.clone() for tensor in parcels[1 - self.rank]])

        def received():
            heard = self._heard()
            assert [tuple(t.shape) for t in heard] == [tuple(s) for s in shapes[1 - self.rank]]
            return [list(parcels[r]) if r == self.rank else heard for r in range(2)]

        return received

    def begin_broadcast(self, value, phase):
        self._events.append(f"{phase} open_run")
        if self.is_first:
            self._outbox.put(value.clone())

        def arrived():
            self._events.append(f"{phase} awaited")
            if not self.is_first:
                value.copy_(self._heard())

        return arrived


class Table(EmbeddingTable):
    events: list[str]

    def step(self, rows, grad):
        self.events.append("rows moved")
        super().step(rows, grad)


def make_worker(rank, inboxes, width):
    """A worker's exchange and its own gradient; rows are those of random tasks."""
    tasks = make_tasks(np.random.default_rng(0))
    batch = build_batch(
        tasks.table, tasks.items, np.array(USERS[rank]), has_support_gradient=True,
        has_row_norms=False,
    )  # fmt: skip
    events = []
    block = -(-tasks.num_rows // 2)
    weight = torch.zeros(tasks.num_rows, width)
    first = rank * block
    table = Table(weight[first : first + block], rate=0.1, first=first, block=block)
    table.events = events
    layers = FlatLayers({"a": torch.zeros(3, 5), "b": torch.zeros(1)})
    coordinator = None
    if rank == 0:
        coordinator = Coordinator(
            layers, None, weighting=Uniform(), outer_rate=0.1, scheduler_rate=0.0
        )
    generator = torch.Generator().manual_seed(rank)
    gradient = MetaGradient(
        {name: torch.randn(p.shape, generator=generator) for name, p in layers.items()},
        torch.randn(len(batch.rows), width, generator=generator),
    )
    step, communicator = StepBatch.of([[batch]]), Pair(rank, inboxes, events)
    return lambda: LaneExchange(step, table, layers, coordinator, communicator), gradient, events


def in_both(act, width=6):
    """What ``act`` makes of each worker's exchange, gradient and list of events."""
    inboxes = queue.Queue(), queue.Queue()
    with ThreadPoolExecutor(2) as pool:
        workers = [make_worker(rank, inboxes, width) for rank in range(2)]
        futures = [pool.submit(lambda w=w: act(w[0](), *w[1:])) for w in workers]
        return [future.result() for future in futures]


@pytest.mark.parametrize("width", [1, 6])
def test_two_workers_sum_in_one_message(width):
    def act(exchange, gradient, events):
        own = MetaGradient(
            {k: v.clone() for k, v in gradient.layers.items()}, gradient.rows.clone()
        )
        (total,) = exchange.sum([own])()
        return exchange._step.rows, gradient, total, events

    found = in_both(act, width)
    size = 1 + max(int(rows.max()) for rows, *_ in found)
    expected = torch.zeros(size, width)
    for rows, gradient, _, _ in found:
        expected[rows] += gradient.rows
    shared = np.intersect1d(found[0][0], found[1][0])
    assert 0 < len(shared) < min(len(rows) for rows, *_ in found)
    for rows, _, total, events in found:
        assert events.count("sum") == 1
        assert torch.equal(total.rows, expected[rows])
        for name, value in total.layers.items():
            assert torch.equal(value, found[0][1].layers[name] + found[1][1].layers[name])


def test_rows_move_while_a_is_on_its_way():
    def act(exchange, gradient, events):
        exchange.fetch_rows()
        exchange.apply([gradient])
        return exchange._layers.flat, events

    (theirs, first), (own, second) = in_both(act)
    for events in (first, second):
        assert events[-3:] == ["outer update open_run", "rows moved", "outer update awaited"]
    assert torch.equal(theirs, own)
    assert own.any()
