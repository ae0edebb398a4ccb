"""Dampings are the ratio of variances that made the ratings."""

import itertools

import numpy as np
import pytest

from greatmeta_dist.config.priors import BiasConfig
from greatmeta_dist.priors.variance_components import VarianceComponents

OPTIONS = BiasConfig()
LEAST, MOST = OPTIONS.min_damping, OPTIONS.max_damping


def test_damping_is_the_ratio_of_the_variances_that_made_the_ratings():
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(3000), rng.integers(1, 60, 3000))
    rating = 0.3 * rng.normal(size=3000)[owner] + 0.9 * rng.normal(size=len(owner)) + 3
    whole, chunks = VarianceComponents(), VarianceComponents()
    for components, cuts in ((whole, [0, 3000]), (chunks, [0, 10, 1700, 3000])):
        for first, last in itertools.pairwise(cuts):
            is_in_chunk = (owner >= first) & (owner < last)
            group, value = owner[is_in_chunk] - first, rating[is_in_chunk] - 3
            components.add(*(np.bincount(group, value**k) for k in range(3)))
    assert whole.damping(OPTIONS) == pytest.approx(9.0, rel=0.1)
    assert chunks.damping(OPTIONS) == pytest.approx(whole.damping(OPTIONS), rel=1e-9)


@pytest.mark.parametrize(
    "count, total, squares, expected",
    [
        ([1, 1, 1], [1.0, 2.0, 3.0], [1.0, 4.0, 9.0], MOST),  # nobody rated twice
        ([5], [5.0], [9.0], MOST),  # one group
        ([2, 2], [4.0, 4.0], [10.0, 10.0], MOST),  # no difference between groups
        ([2, 2], [2.0, 8.0], [2.0, 32.0], LEAST),  # none within
        ([2, 0, 2], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], MOST),  # all the same
    ],
)
def test_damping_of_degenerate_ratings(count, total, squares, expected):
    components = VarianceComponents()
    components.add(np.array(count), np.array(total), np.array(squares))
    assert components.damping(OPTIONS) == expected


def test_damping_stays_within_the_options():
    components = VarianceComponents()
    components.add(np.array([2, 2]), np.array([2.0, 8.0]), np.array([2.0, 32.0]))
    assert components.damping(BiasConfig(min_damping=0.5)) == 0.5
    lone = VarianceComponents()
    assert lone.damping(BiasConfig(max_damping=70.0)) == 70.0
