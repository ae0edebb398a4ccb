"""Scheduler weights are a distribution over the batch, and bounded where asked."""

import pytest
import torch

from greatmeta_dist.engine.coordinator import Coordinator
from greatmeta_dist.engine.layers import FlatLayers
from greatmeta_dist.meta.factors import (
    FACTOR_KINDS,
    VISITS_KEPT,
    FactorAverages,
    Factors,
    FactorSizes,
    standardise,
)
from greatmeta_dist.meta.scheduler import (
    SCALE_BOUND,
    RunningScale,
    Scheduler,
    effective_sample_size,
)
from greatmeta_dist.meta.step import UserStatistics

SIZES = FactorSizes(magnitude=1, gap=6, agreement=9)
ALL_SIZES = FactorSizes(magnitude=2, gap=6, agreement=9, context=5)


def columns(num_users: int = 32, sizes: FactorSizes = SIZES) -> torch.Tensor:
    return torch.randn(num_users, sizes.total, generator=torch.Generator().manual_seed(0))


def test_standardised_factors_have_zero_mean_and_unit_variance():
    found = standardise(Factors.from_columns(columns() * 7 + 3, SIZES))
    assert found.magnitude.mean().abs() < 1e-6
    assert torch.allclose(found.magnitude.var(correction=0), torch.tensor(1.0), atol=1e-4)
    for entries in (found.gap, found.agreement):
        assert entries.mean(1).abs().max() < 1e-6
        assert torch.allclose(entries.var(1), torch.ones(32), atol=1e-4)


def test_columns_round_trip():
    for sizes in (SIZES, ALL_SIZES):
        given = columns(sizes=sizes)
        assert torch.equal(Factors.from_columns(given, sizes).columns(), given)


def test_hidden_factors_do_not_matter():
    torch.manual_seed(0)
    given, other = columns(sizes=ALL_SIZES), columns(sizes=ALL_SIZES)
    other[:, 2:8] = 7.0
    for reads, is_same in (
        ((*FACTOR_KINDS,), False),
        (("magnitude", "agreement", "context"), True),
    ):
        scheduler = Scheduler("balanced", ALL_SIZES, reads=reads)
        torch.nn.init.normal_(scheduler.scorer.mlp[-1].weight)
        scheduler.observe(given)
        assert torch.allclose(scheduler(given), scheduler(other)) == is_same


def test_remembered_factors_are_means_over_a_users_visits():
    memory = FactorAverages(5, ALL_SIZES, torch.device("cpu"), first=10)
    width = ALL_SIZES.total - ALL_SIZES.context
    generator = torch.Generator().manual_seed(0)
    expected: dict[int, tuple[torch.Tensor, int]] = {}
    for visit in range(3 * VISITS_KEPT):
        place = 10 + torch.randperm(5, generator=generator)[:3]
        given = torch.randn(3, ALL_SIZES.total, generator=generator)
        if visit % 7 == 0:
            given[1, 2] = [torch.nan, torch.inf][visit % 2]
        found = memory.recall(place, given)
        assert torch.equal(found[:, width:], given[:, width:])
        for user, now, told in zip(place.tolist(), given[:, :width], found, strict=True):
            if not now.isfinite().all():
                assert not told.isfinite().all()
                continue
            mean, count = expected.get(user, (torch.zeros(width), 0))
            count += 1
            mean = mean + (now - mean) / min(count, VISITS_KEPT)
            expected[user] = mean, count
            torch.testing.assert_close(told[:width], mean)
    assert min(count for _, count in expected.values()) > VISITS_KEPT
    assert memory.mean.isfinite().all()


def test_a_mean_that_overflows_is_not_kept():
    memory = FactorAverages(1, ALL_SIZES, torch.device("cpu"), first=0)
    one = torch.ones(1, ALL_SIZES.total)
    for scale, is_finite in ((3e38, True), (-3e38, False), (1.0, True)):
        found = memory.recall(torch.tensor([0]), scale * one)
        assert bool(found.isfinite().all()) == is_finite


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


def test_running_scale_learns_nothing_where_nobody_counts():
    scale = RunningScale(3)
    scale.observe(torch.full((4, 3), 5.0), torch.zeros(4, dtype=torch.bool))
    assert scale.mean.tolist() == [0, 0, 0]
    scale.observe(torch.full((4, 3), 5.0), torch.ones(4, dtype=torch.bool))
    assert scale.mean.tolist() == [5, 5, 5]


def test_balanced_weights_learn_how_much_a_user_should_count():
    torch.manual_seed(0)
    scheduler = Scheduler("balanced", ALL_SIZES, max_weight_ratio=8.0)
    coordinator = Coordinator(
        FlatLayers({"a": torch.zeros(1)}),
        scheduler,
        weighting="balanced",
        outer_rate=1e-3,
        scheduler_rate=3e-3,
    )
    generator = torch.Generator().manual_seed(1)
    ratio = []
    for _ in range(600):
        is_rare = torch.rand(64, generator=generator) < 0.1
        given = torch.randn(64, ALL_SIZES.total, generator=generator)
        given[:, 3] += 4.0 * is_rare  # one gap factor tells them
        balance = torch.where(is_rare, 3.0, 1.0)
        weights = coordinator.weigh(UserStatistics(torch.ones(64, 2), balance, given).columns())
        ratio.append(float(weights[is_rare].mean() / weights[~is_rare].mean()))
    assert ratio[0] == pytest.approx(1.0, abs=0.1)
    assert sum(ratio[-50:]) / 50 == pytest.approx(3.0, rel=0.15)


@pytest.mark.parametrize("kind", ["mlp", "lstm", "balanced"])
def test_bounded_weights_cannot_collapse(kind):
    torch.manual_seed(0)
    scheduler = Scheduler(kind, SIZES, max_weight_ratio=4.0)
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
    scheduler = Scheduler("mlp", SIZES)
    with torch.no_grad():
        for p in scheduler.parameters():
            p.mul_(100)
    assert effective_sample_size(scheduler(columns())) < 4
