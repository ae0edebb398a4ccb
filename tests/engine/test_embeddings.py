"""The embedding table moves the rows a step touches, and lanes share one set of rows."""

import numpy as np
import pytest
import torch
from random_tasks import make_tasks

from greatmeta_dist.batching.collate import build_batch
from greatmeta_dist.engine.embeddings import EmbeddingTable
from greatmeta_dist.engine.tree_sum import tree_sum
from greatmeta_dist.meta.batch import StepBatch


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
    table = EmbeddingTable(weight.clone(), rate=0.1, update="dense")
    reference = torch.nn.Parameter(weight.clone())
    adam = torch.optim.Adam([reference], lr=0.1)
    for rows in ([0, 3], [1, 2]):
        grad = torch.ones(2, 2)
        table.update_rows(torch.tensor(rows), grad)
        reference.grad = torch.zeros_like(reference)
        reference.grad[rows] = grad
        adam.step()
    assert torch.allclose(table.weight.detach(), reference.detach())


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


def test_tree_sum_adds_neighbours_first():
    parts = [torch.tensor(x) for x in (1e8, 1.0, -1e8, 1.0)]
    (found,) = tree_sum([part.clone()] for part in parts)
    assert found == (parts[0] + parts[1]) + (parts[2] + parts[3])
    assert found != parts[0] + parts[2] + parts[1] + parts[3]


@pytest.mark.parametrize("update", ["lazy", "dense"])
def test_running_mean_is_the_mean_over_all_steps_of_every_row(update):
    weight = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    table = EmbeddingTable(weight.clone(), rate=0.1, update=update, ema_decay=0.9)
    expected = weight.clone()
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = torch.from_numpy(np.sort(rng.choice(6, 2, replace=False)))
        table.update_rows(rows, torch.from_numpy(rng.normal(size=(2, 2))))
        expected = 0.9 * expected + 0.1 * table.weight.detach()
        assert torch.allclose(table.lookup_mean(torch.arange(6)), expected, atol=1e-12)
