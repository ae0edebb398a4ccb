"""Scheduler weights are a distribution over the batch, and bounded where asked."""

import pytest
import torch

from greatmeta_dist.config.training import FACTORS
from greatmeta_dist.engine.coordinator import Coordinator
from greatmeta_dist.engine.layers import FlatLayers
from greatmeta_dist.extensions import WEIGHTINGS
from greatmeta_dist.meta.factors import FACTOR_KINDS, Factors, FactorSizes
from greatmeta_dist.meta.scheduler import (
    SCALE_BOUND,
    BatchScale,
    RunningScale,
    Scheduler,
    effective_sample_size,
)
from greatmeta_dist.meta.user_statistics import UserStatistics
from greatmeta_dist.meta.weightings.balanced import Balanced

SIZES = FactorSizes(magnitude=1, gap=6, agreement=9)
ALL_SIZES = FactorSizes(magnitude=2, gap=6, agreement=9, context=5)


def columns(num_users: int = 32, sizes: FactorSizes = SIZES) -> torch.Tensor:
    return torch.randn(num_users, sizes.total, generator=torch.Generator().manual_seed(0))


def make_scheduler(kind: str, sizes: FactorSizes, **options) -> Scheduler:
    return WEIGHTINGS.get(kind)(**options).make_scheduler(sizes)


def test_standardised_factors_have_zero_mean_and_unit_variance():
    found = Factors.from_columns(BatchScale(SIZES)(columns() * 7 + 3), SIZES)
    assert found.magnitude.mean().abs() < 1e-6
    assert torch.allclose(found.magnitude.var(correction=0), torch.tensor(1.0), atol=1e-4)
    for entries in (found.gap, found.agreement):
        assert entries.mean(1).abs().max() < 1e-6
        assert torch.allclose(entries.var(1), torch.ones(32), atol=1e-4)


def test_every_factor_kind_is_an_option():
    assert FACTORS == FACTOR_KINDS


def test_columns_round_trip():
    for sizes in (SIZES, ALL_SIZES):
        given = columns(sizes=sizes)
        assert torch.equal(Factors.from_columns(given, sizes).columns(), given)


def test_hidden_factors_do_not_matter():
    torch.manual_seed(0)
    given, other = columns(sizes=ALL_SIZES), columns(sizes=ALL_SIZES)
    other[:, 2:8] = 7.0
    for visible, is_same in (
        ((*FACTOR_KINDS,), False),
        (("magnitude", "agreement", "context"), True),
    ):
        scheduler = make_scheduler("balanced", ALL_SIZES, factors=visible)
        torch.nn.init.normal_(scheduler.scorer.mlp[-1].weight)
        scheduler.observe(given)
        assert torch.allclose(scheduler(given), scheduler(other)) == is_same


def test_running_scale_follows_mean_and_deviation():
    generator = torch.Generator().manual_seed(0)
    scale = RunningScale(3)
    spread, middle = torch.tensor([0.1, 1.0, 10.0]), torch.tensor([5.0, -1.0, 0.0])
    for _ in range(400):
        scale.observe(middle + spread * torch.randn(64, 3, generator=generator))
    found = scale(middle + spread * torch.randn(20000, 3, generator=generator))
    assert found.mean(0).abs().max() < 0.1
    assert (found.std(0) - 1).abs().max() < 0.1
    assert found.abs().max() <= SCALE_BOUND


def test_running_scale_learns_nothing_where_nobody_is_finite():
    scale = RunningScale(3)
    scale.observe(torch.full((4, 3), 5.0), torch.zeros(4, dtype=torch.bool))
    assert scale.mean.tolist() == [0, 0, 0]
    scale.observe(torch.full((4, 3), 5.0), torch.ones(4, dtype=torch.bool))
    assert scale.mean.tolist() == [5, 5, 5]


def test_balanced_weights_learn_how_much_a_user_should_count():
    torch.manual_seed(0)
    weighting = Balanced(max_weight_ratio=8.0)
    coordinator = Coordinator(
        FlatLayers({"a": torch.zeros(1)}),
        weighting.make_scheduler(ALL_SIZES),
        weighting=weighting,
        outer_rate=1e-3,
        scheduler_rate=3e-3,
    )
    generator = torch.Generator().manual_seed(1)
    ratio = []
    for _ in range(600):
        is_rare = torch.rand(64, generator=generator) < 0.1
        given = torch.randn(64, ALL_SIZES.total, generator=generator)
        given[:, 3] += 4.0 * is_rare  # one gap factor tells them
        target_weight = torch.where(is_rare, 3.0, 1.0)
        statistics = UserStatistics(torch.ones(64, 2), target_weight, given)
        weights = coordinator.compute_weights(statistics.columns())
        ratio.append(float(weights[is_rare].mean() / weights[~is_rare].mean()))
    assert ratio[0] == pytest.approx(1.0, abs=0.1)
    assert sum(ratio[-50:]) / 50 == pytest.approx(3.0, rel=0.15)


@pytest.mark.parametrize("kind", ["mlp", "lstm", "balanced"])
def test_bounded_weights_cannot_collapse(kind):
    torch.manual_seed(0)
    scheduler = make_scheduler(kind, SIZES, max_weight_ratio=4.0)
    if kind == "balanced":
        torch.nn.init.normal_(scheduler.scorer.mlp[-1].weight)
    with torch.no_grad():
        for p in scheduler.parameters():
            p.mul_(100)
    weights = scheduler(columns()).detach()
    assert weights.sum() == pytest.approx(1)
    assert weights.max() / weights.min() <= 4.0 * (1 + 1e-5)
    assert effective_sample_size(weights) >= 32 * 4 * 4 / (1 + 4) ** 2 * (1 - 1e-5)


def test_free_weights_do_collapse():
    torch.manual_seed(0)
    scheduler = make_scheduler("mlp", SIZES)
    with torch.no_grad():
        for p in scheduler.parameters():
            p.mul_(100)
    assert effective_sample_size(scheduler(columns())) < 4
