"""Sums have the brackets of one binary tree, whoever adds which part of it."""

import pytest
import torch

from greatmeta_dist.engine.tree_sum import tree_of_lanes, tree_sum


def test_tree_sum_adds_neighbours_first():
    terms = [torch.tensor(x) for x in (1e8, 1.0, -1e8, 1.0)]
    (total,) = tree_sum([term.clone()] for term in terms)
    assert total == (terms[0] + terms[1]) + (terms[2] + terms[3])
    assert total != terms[0] + terms[2] + terms[1] + terms[3]


@pytest.mark.parametrize("workers", [1, 2, 4, 8, 16])
def test_any_number_of_workers_gives_the_same_bits(workers):
    generator = torch.Generator().manual_seed(0)
    lanes = torch.randn(16, 50, generator=generator) * 10.0 ** torch.arange(16).view(-1, 1)
    lanes = lanes[torch.randperm(16, generator=generator)]
    (expected,) = tree_sum([lane.clone()] for lane in lanes)
    by_worker = lanes.split(16 // workers)
    own_sums = [tree_sum([lane.clone()] for lane in hosted) for hosted in by_worker]
    (total,) = tree_sum(own_sums)
    assert torch.equal(total, expected)
    assert not torch.equal(total, lanes.sum(0))


@pytest.mark.parametrize("num_terms", [1, 2, 3, 5, 7, 12, 31])
def test_terms_that_are_no_power_of_two_are_all_added_and_few_are_held(num_terms):
    num_held, most = 0, 0

    class Term(list):
        def __init__(self):
            nonlocal num_held, most
            super().__init__([torch.ones(2)])
            num_held += 1
            most = max(most, num_held)

        def __del__(self):
            nonlocal num_held
            num_held -= 1

    (total,) = tree_sum(Term() for _ in range(num_terms))
    assert total.tolist() == [num_terms] * 2
    assert most <= num_terms.bit_length() + 1


@pytest.mark.parametrize("groups", [[8], [4, 4], [4, 2, 2], [1, 1, 2, 4], [2, 1, 1, 4]], ids=str)
def test_groups_of_unequal_sizes_give_the_bits_of_lanes_one_by_one(groups):
    generator = torch.Generator().manual_seed(1)
    lanes = torch.randn(8, 50, generator=generator) * 10.0 ** torch.arange(8).view(-1, 1)
    lanes = lanes[torch.randperm(8, generator=generator)]
    expected = tree_sum([lane.clone(), -lane] for lane in lanes)
    sums = [tree_of_lanes([part.clone(), -part]) for part in lanes.split(groups)]
    total = tree_sum(sums, [size.bit_length() - 1 for size in groups])
    assert all(torch.equal(*both) for both in zip(total, expected, strict=True))
    assert not torch.equal(expected[0], lanes.sum(0))
