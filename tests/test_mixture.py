"""The mixture of normals that users are of: posteriors, and what is fitted to them."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from greatmeta_dist.tasks.mixture import Mixture, Moments, inverse


def spread_matrix(rng, *shape):
    root = rng.normal(size=(*shape, shape[-1]))
    return root @ root.swapaxes(-1, -2) + 0.3 * np.eye(shape[-1])


def some_mixture(rng, count=3, width=4):
    return Mixture(
        rng.dirichlet(np.ones(count)),
        rng.normal(size=(count, width)),
        spread_matrix(rng, count, width),
    )


def test_posterior_is_that_of_x_measured_with_an_error():
    rng = np.random.default_rng(0)
    mixture = some_mixture(rng)
    error = spread_matrix(rng, 5, 4)
    measured = rng.normal(size=(5, 4))
    precision = np.linalg.inv(error)
    said = np.einsum("nde,ne->nd", precision, measured)
    found = mixture.posterior(precision, said)
    for n in range(5):
        likelihood = []
        for c in range(3):
            cov = np.linalg.inv(mixture.precision[c])
            whole = cov + error[n]
            likelihood.append(
                mixture.share[c] * multivariate_normal(mixture.mean[c], whole).pdf(measured[n])
            )
            gain = cov @ np.linalg.inv(whole)
            mean = mixture.mean[c] + gain @ (measured[n] - mixture.mean[c])
            assert found.mean[c, n] == pytest.approx(mean)
            assert found.covariance[c, n] == pytest.approx(cov - gain @ cov)
        assert found.chance[:, n] == pytest.approx(likelihood / np.sum(likelihood))
        # What no mixture changes is the density of the measurement at its best.
        best = multivariate_normal(measured[n], error[n]).pdf(measured[n])
        constant = np.log(best) - measured[n] @ said[n] / 2
        assert found.evidence[n] + constant == pytest.approx(np.log(np.sum(likelihood)))


def test_expectations_and_moments_are_sums_over_components_and_users():
    rng = np.random.default_rng(1)
    found = some_mixture(rng).posterior(spread_matrix(rng, 6, 4), rng.normal(size=(6, 4)))
    mean, square = found.expected()
    moments = found.moments()
    for n in range(6):
        seconds = found.covariance[:, n] + np.einsum(
            "cd,ce->cde", found.mean[:, n], found.mean[:, n]
        )
        assert mean[n] == pytest.approx(found.chance[:, n] @ found.mean[:, n])
        assert square[n] == pytest.approx(np.einsum("c,cde->de", found.chance[:, n], seconds))
    assert moments.count == pytest.approx(found.chance.sum(1))
    assert moments.total.sum(0) == pytest.approx(mean.sum(0))
    assert moments.square.sum(0) == pytest.approx(square.sum(0))
    assert moments.total[1] == pytest.approx(found.chance[1] @ found.mean[1])

    turn = rng.normal(size=(4, 4))
    turned = moments.turned(turn)
    assert turned.total[1] == pytest.approx(turn @ moments.total[1])
    assert turned.square[1] == pytest.approx(turn @ moments.square[1] @ turn.T)
    twice = moments + moments
    assert twice.count == pytest.approx(2 * moments.count)
    assert twice.square == pytest.approx(2 * moments.square)


def test_fitting_finds_the_normals_that_users_were_drawn_from():
    rng = np.random.default_rng(2)
    size = np.array([20_000, 60_000])
    mean, cov = np.array([[1.0, -2.0], [0.0, 3.0]]), spread_matrix(rng, 2, 2)
    drawn = [rng.multivariate_normal(mean[c], cov[c], size[c]) for c in range(2)]
    moments = Moments(
        size.astype(float),
        np.array([x.sum(0) for x in drawn]),
        np.array([x.T @ x for x in drawn]),
    )
    found = Mixture.fitted(moments, np.full(2, 1e-9))
    assert found.share == pytest.approx([0.25, 0.75], abs=1e-4)
    assert found.mean == pytest.approx(mean, abs=0.05)
    assert np.linalg.inv(found.precision) == pytest.approx(cov, rel=0.05, abs=0.05)


def test_a_component_of_nobody_is_about_nothing_and_as_wide_as_the_others():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(500, 3)) @ np.diag([1.0, 2.0, 0.0])
    moments = Moments(
        np.array([500.0, 0.0]),
        np.array([x.sum(0), np.zeros(3)]),
        np.array([x.T @ x, np.zeros((3, 3))]),
    )
    least = np.array([1e-6, 1e-6, 1e-4])
    found = Mixture.fitted(moments, least)
    assert found.mean[1].tolist() == [0, 0, 0]
    own, other = np.linalg.inv(found.precision)
    assert other[:2, :2] == pytest.approx(own[:2, :2], rel=1e-3)
    assert other[2, 2] == pytest.approx(1e-4)
    assert found.share == pytest.approx([501 / 502, 1 / 502])


def test_clusters_do_not_depend_on_the_order_of_users():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(90, 3)) + np.repeat(np.diag([9.0, 9.0, 9.0]), [60, 20, 10], axis=0)
    variance = np.array([1.0, 4.0, 0.25])
    found, other = (
        Mixture.of_clusters(users, variance, count=3, seed=0) for users in (x, rng.permutation(x))
    )
    order = np.argsort(found.share)
    assert found.share[order] == pytest.approx([1 / 9, 2 / 9, 6 / 9])
    assert found.mean[order[0]] == pytest.approx(x[80:].mean(0))
    assert np.array_equal(found.mean, other.mean)
    turn = np.linalg.qr(rng.normal(size=(2, 2)))[0]
    of_equal = np.array([1.0, 4.0, 4.0])
    plain = Mixture.of_clusters(x, of_equal, count=5, seed=0)
    turned = Mixture.of_clusters(np.hstack([x[:, :1], x[:, 1:] @ turn]), of_equal, count=5, seed=0)
    assert turned.mean[:, 1:] == pytest.approx(plain.mean[:, 1:] @ turn)
    assert found.precision == pytest.approx(np.tile(np.diag(1 / variance), (3, 1, 1)))


def test_inverses_and_determinants():
    matrix = spread_matrix(np.random.default_rng(5), 7, 5)
    found, size = inverse(matrix)
    assert found == pytest.approx(np.linalg.inv(matrix))
    assert size == pytest.approx(np.linalg.slogdet(matrix)[1])
