"""Scheduler weights are a distribution over the batch, and bounded where asked."""

import pytest
import torch

from greatmeta_dist.meta.factors import Factors, standardise
from greatmeta_dist.meta.scheduler import Scheduler, effective_sample_size


def columns(num_users: int = 32) -> torch.Tensor:
    return torch.randn(num_users, 1 + 6 + 9, generator=torch.Generator().manual_seed(0))


def test_standardised_factors_have_zero_mean_and_unit_variance():
    found = standardise(Factors.from_columns(columns() * 7 + 3, num_gap=6))
    assert found.magnitude.mean().abs() < 1e-6
    assert torch.allclose(found.magnitude.var(correction=0), torch.tensor(1.0), atol=1e-4)
    for entries in (found.gap, found.agreement):
        assert entries.mean(1).abs().max() < 1e-6
        assert torch.allclose(entries.var(1), torch.ones(32), atol=1e-4)


def test_columns_round_trip():
    given = columns()
    assert torch.equal(Factors.from_columns(given, num_gap=6).columns(), given)


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_bounded_weights_cannot_collapse(kind):
    torch.manual_seed(0)
    scheduler = Scheduler(kind, num_gap=6, num_agreement=9, max_weight_ratio=4.0)
    with torch.no_grad():
        for p in scheduler.parameters():
            p.mul_(100)
    weights = scheduler(columns()).detach()
    assert weights.sum() == pytest.approx(1)
    assert weights.max() / weights.min() <= 4.0 * (1 + 1e-5)
    assert effective_sample_size(weights) >= 32 * 4 * 4 / (1 + 4) ** 2 * (1 - 1e-5)


def test_free_weights_do_collapse():
    torch.manual_seed(0)
    scheduler = Scheduler("mlp", num_gap=6, num_agreement=9)
    with torch.no_grad():
        for p in scheduler.parameters():
            p.mul_(100)
    assert effective_sample_size(scheduler(columns())) < 4
