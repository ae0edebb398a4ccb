"""The embedding table updates the rows a step touches, each by itself."""

import numpy as np
import pytest
import torch

from greatmeta_dist.engine import embeddings
from greatmeta_dist.engine.embeddings import EmbeddingTable, block_size, fresh_rows


def test_lazy_update_is_adam_on_the_rows_touched_and_leaves_the_others():
    weight = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    table = EmbeddingTable(weight.clone(), rate=0.1)
    reference = torch.nn.Parameter(weight[[2, 5, 7]].clone())
    adam = torch.optim.Adam([reference], lr=0.1)
    for k in range(4):
        grad = torch.randn(3, 3, generator=torch.Generator().manual_seed(k))
        table.update_rows(torch.tensor([2, 5, 7]), grad)
        reference.grad = grad.clone()
        adam.step()
    assert torch.allclose(table.lookup(torch.tensor([2, 5, 7])), reference.detach(), atol=1e-6)
    others = torch.tensor([0, 1, 3, 4, 6, 8, 9])
    assert torch.equal(table.lookup(others), weight[others])


def test_dense_update_is_adam_on_all_rows():
    weight = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    table = EmbeddingTable(weight.clone(), rate=0.1, is_lazy=False)
    reference = torch.nn.Parameter(weight.clone())
    adam = torch.optim.Adam([reference], lr=0.1)
    for rows in ([0, 3], [1, 2]):
        grad = torch.ones(2, 2)
        table.update_rows(torch.tensor(rows), grad)
        reference.grad = torch.zeros_like(reference)
        reference.grad[rows] = grad
        adam.step()
    assert torch.allclose(table.weight.detach(), reference.detach())


@pytest.mark.parametrize("update", ["lazy", "dense"])
def test_running_mean_is_the_mean_over_all_steps_of_every_row(update):
    weight = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    table = EmbeddingTable(weight.clone(), rate=0.1, is_lazy=update == "lazy", ema_decay=0.9)
    expected = weight.clone()
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = torch.from_numpy(np.sort(rng.choice(6, 2, replace=False)))
        table.update_rows(rows, torch.from_numpy(rng.normal(size=(2, 2))))
        expected = 0.9 * expected + 0.1 * table.weight.detach()
        assert torch.allclose(table.lookup_averaged(torch.arange(6)), expected, atol=1e-12)


@pytest.mark.parametrize("update", ["lazy", "dense"])
def test_rows_of_blocks_have_the_bits_of_rows_of_one_table(update):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(101, 7, generator=generator)
    whole = EmbeddingTable(weight.clone(), rate=0.1, is_lazy=update == "lazy", ema_decay=0.9)
    size = block_size(len(weight), 4)
    blocks = [
        EmbeddingTable(
            weight[first : first + size].clone(),
            rate=0.1,
            is_lazy=update == "lazy",
            ema_decay=0.9,
            first=first,
            block=size,
        )
        for first in range(0, len(weight), size)
    ]
    rng = np.random.default_rng(0)
    for _ in range(5):
        rows = torch.from_numpy(np.sort(rng.choice(101, 37, replace=False)))
        gradient = torch.randn(37, 7, generator=generator)
        whole.update_rows(rows, gradient)
        for rank, block in enumerate(blocks):
            assert block.first == block.first_row_of(rank)
            is_here = (rows >= block.first) & (rows < block.first + len(block.weight))
            block.update_rows(rows[is_here] - block.first, gradient[is_here])
    assert torch.equal(torch.cat([block.weight for block in blocks]), whole.weight)
    means = [block.lookup_averaged(torch.arange(len(block.weight))) for block in blocks]
    assert torch.equal(torch.cat(means), whole.lookup_averaged(torch.arange(101)))


def test_no_run_of_fresh_rows_repeats_another(monkeypatch):
    monkeypatch.setattr(embeddings, "ROWS_PER_DRAW", 8)
    rows = fresh_rows(64, 2, 0.1, torch.Generator().manual_seed(5), first=0, last=64)
    assert len({tuple(row) for row in rows.tolist()}) == 64


def test_fresh_rows_are_the_same_whoever_draws_them(monkeypatch):
    monkeypatch.setattr(embeddings, "ROWS_PER_DRAW", 8)

    def draw(first, last):
        generator = torch.Generator().manual_seed(3)
        return fresh_rows(30, 2, 0.1, generator, first=first, last=last)

    whole = draw(0, 30)
    assert whole.std() > 0.05
    assert torch.equal(torch.cat([draw(0, 11), draw(11, 22), draw(22, 30)]), whole)


def test_state_reads_back():
    weight = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    table = EmbeddingTable(weight.clone(), rate=0.1, ema_decay=0.9)
    table.update_rows(torch.tensor([1, 4]), torch.ones(2, 2))
    other = EmbeddingTable(torch.zeros(6, 2), rate=0.1, ema_decay=0.9)
    other.load_state({name: tensor.clone() for name, tensor in table.state().items()})
    for each in (table, other):
        each.update_rows(torch.tensor([1, 2]), torch.ones(2, 2))
    for name, tensor in table.state().items():
        assert torch.equal(other.state()[name], tensor), name
