"""How new users are folded into a fitted factorisation."""

import numpy as np
import pytest
from low_rank import as_sparse, low_rank_log

from greatmeta_dist.config.priors import BayesianMFConfig
from greatmeta_dist.priors.bayesian_mf_fit import factorise
from greatmeta_dist.priors.bayesian_mf_model import BayesianMF
from greatmeta_dist.priors.mixture import Mixture
from greatmeta_dist.ragged import Ragged

OPTIONS = BayesianMFConfig()
NUM_FACTORS = OPTIONS.num_factors
WIDTH = NUM_FACTORS + 2


def test_a_user_is_folded_in_as_a_gaussian_process_of_the_items_would_have_it():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(6, WIDTH))
    start = BayesianMF(
        np.arange(6),
        mean,
        np.zeros((6, WIDTH - 1)),
        mean[:, :1] * mean[:, 1:],
        0.4,
        Mixture.single(np.array([0.3, *[1.0] * NUM_FACTORS])),
        np.ones(WIDTH),
    )
    item, residual = np.array([4, 1, 3]), np.array([1.0, -0.5, 2.0])
    prior = np.diag([0.3, *[1.0] * NUM_FACTORS])
    covariance = mean[:, 1:] @ prior @ mean[:, 1:].T
    among = covariance[np.ix_(item, item)] + 0.4 * np.eye(3)
    expected = mean[:, 0] + covariance[:, item] @ np.linalg.solve(among, residual - mean[item, 0])
    support, query = Ragged(item, np.array([0, 3])), Ragged(np.arange(6), np.array([0, 6]))
    predicted, is_known = start.predict_residual(support, residual, query)
    assert predicted == pytest.approx(expected)
    assert is_known.all()


def test_items_it_does_not_know_say_nothing_and_are_not_predicted():
    value, is_given = low_rank_log()
    item, whole = np.arange(40) * 3, as_sparse(value, is_given)
    start = factorise(lambda: [whole], item, options=OPTIONS, seed=(0, 0))
    query = Ragged(np.array([0, 1, 117, 118, 500]), np.array([0, 5]))
    with_unknown = Ragged(np.array([6, 7, 9, 500]), np.array([0, 4]))
    without = Ragged(np.array([6, 9]), np.array([0, 2]))
    one, known = start.predict_residual(with_unknown, np.array([1.0, 50.0, 2.0, 50.0]), query)
    is_known = known == 1
    two, _ = start.predict_residual(without, np.array([1.0, 2.0]), query)
    assert is_known.tolist() == [True, False, True, False, False]
    assert np.array_equal(one[is_known], two[is_known])
