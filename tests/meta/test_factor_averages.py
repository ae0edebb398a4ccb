"""Factor averages are means over each user's visits, and always finite."""

import torch

from greatmeta_dist.meta.factor_averages import VISITS_KEPT, FactorAverages
from greatmeta_dist.meta.factors import FactorSizes

ALL_SIZES = FactorSizes(magnitude=2, gap=6, agreement=9, context=5)


def test_factor_averages_are_means_over_a_users_visits():
    averages = FactorAverages(5, ALL_SIZES, torch.device("cpu"), first_user=10)
    width = ALL_SIZES.total - ALL_SIZES.context
    generator = torch.Generator().manual_seed(0)
    expected: dict[int, tuple[torch.Tensor, int]] = {}
    for visit in range(3 * VISITS_KEPT):
        user_index = 10 + torch.randperm(5, generator=generator)[:3]
        given = torch.randn(3, ALL_SIZES.total, generator=generator)
        if visit % 7 == 0:
            given[1, 2] = [torch.nan, torch.inf][visit % 2]
        found = averages.update(user_index, given)
        assert torch.equal(found[:, width:], given[:, width:])
        for user, now, average in zip(user_index.tolist(), given[:, :width], found, strict=True):
            if not now.isfinite().all():
                assert not average.isfinite().all()
                continue
            mean, count = expected.get(user, (torch.zeros(width), 0))
            count += 1
            mean = mean + (now - mean) / min(count, VISITS_KEPT)
            expected[user] = mean, count
            torch.testing.assert_close(average[:width], mean)
    assert min(count for _, count in expected.values()) > VISITS_KEPT
    assert averages.mean.isfinite().all()


def test_a_mean_that_overflows_is_not_kept():
    averages = FactorAverages(1, ALL_SIZES, torch.device("cpu"), first_user=0)
    one = torch.ones(1, ALL_SIZES.total)
    for scale, is_finite in ((3e38, True), (-3e38, False), (1.0, True)):
        found = averages.update(torch.tensor([0]), scale * one)
        assert bool(found.isfinite().all()) == is_finite
