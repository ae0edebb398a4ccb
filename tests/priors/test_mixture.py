"""The mixture of normals that users are of: posteriors, and what is fitted to them."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from greatmeta_dist.config.priors import BayesianMFConfig
from greatmeta_dist.priors.mixture import Mixture, Moments, inverse

DAMPING = BayesianMFConfig().component_damping


def spread_matrix(rng, *shape):
    root = rng.normal(size=(*shape, shape[-1]))
    return root @ root.swapaxes(-1, -2) + 0.3 * np.eye(shape[-1])


def some_mixture(rng, count=3, width=4):
    return Mixture(
        rng.dirichlet(np.ones(count)), rng.normal(size=(count, width)), spread_matrix(rng, width)
    )


def test_posterior_is_that_of_x_measured_with_an_error():
    rng = np.random.default_rng(0)
    mixture = some_mixture(rng)
    error = spread_matrix(rng, 5, 4)
    measured = rng.normal(size=(5, 4))
    precision = np.linalg.inv(error)
    posterior = mixture.posterior(precision, np.einsum("nde,ne->nd", precision, measured))
    cov = np.linalg.inv(mixture.precision)
    for n in range(5):
        likelihood = []
        gain = cov @ np.linalg.inv(cov + error[n])
        for c in range(3):
            around = multivariate_normal(mixture.mean[c], cov + error[n])
            likelihood.append(mixture.weight[c] * around.pdf(measured[n]))
            mean = mixture.mean[c] + gain @ (measured[n] - mixture.mean[c])
            assert posterior.mean[c, n] == pytest.approx(mean)
        assert posterior.covariance[n] == pytest.approx(cov - gain @ cov)
        assert posterior.responsibility[:, n] == pytest.approx(likelihood / np.sum(likelihood))


def test_users_without_ratings_are_as_all_users_are():
    mixture = some_mixture(np.random.default_rng(1))
    posterior = mixture.posterior(np.zeros((2, 4, 4)), np.zeros((2, 4)))
    for n in range(2):
        assert posterior.responsibility[:, n] == pytest.approx(mixture.weight)
        assert posterior.mean[:, n] == pytest.approx(mixture.mean)
        assert posterior.covariance[n] == pytest.approx(np.linalg.inv(mixture.precision))


def test_expectations_and_moments_are_sums_over_components_and_users():
    rng = np.random.default_rng(2)
    mixture = some_mixture(rng)
    posterior = mixture.posterior(spread_matrix(rng, 6, 4), rng.normal(size=(6, 4)))
    mean, square = posterior.moments()
    total, seconds = np.zeros((3, 4)), np.zeros((4, 4))
    for n in range(6):
        of_user = posterior.covariance[n].copy()
        for c in range(3):
            total[c] += posterior.responsibility[c, n] * posterior.mean[c, n]
            of_user += posterior.responsibility[c, n] * np.outer(
                posterior.mean[c, n], posterior.mean[c, n]
            )
        assert mean[n] == pytest.approx(posterior.responsibility[:, n] @ posterior.mean[:, n])
        assert square[n] == pytest.approx(of_user)
        seconds += of_user
    moments = Moments.zeros(mixture).plus(posterior, square)
    assert moments.count == pytest.approx(posterior.responsibility.sum(1))
    assert moments.total == pytest.approx(total)
    assert moments.square == pytest.approx(seconds)
    twice = moments.plus(posterior, square)
    assert twice.count == pytest.approx(2 * moments.count)
    assert twice.total == pytest.approx(2 * total)
    assert twice.square == pytest.approx(2 * seconds)

    rotation = rng.normal(size=(4, 4))
    rotated = moments.rotated(rotation)
    assert rotated.total[1] == pytest.approx(rotation @ total[1])
    assert rotated.square == pytest.approx(rotation @ seconds @ rotation.T)


def moments_of(drawn):
    """Users whose component and x are known."""
    return Moments(
        np.array([float(len(x)) for x in drawn]),
        np.array([x.sum(0) for x in drawn]),
        sum(x.T @ x for x in drawn),
    )


def test_fitting_finds_the_normals_that_users_were_drawn_from():
    rng = np.random.default_rng(3)
    size, mean, cov = [20_000, 60_000], [[1.0, -2.0], [0.0, 3.0]], spread_matrix(rng, 2)
    drawn = [rng.multivariate_normal(m, cov, n) for m, n in zip(mean, size, strict=True)]
    fitted = Mixture.fitted(moments_of(drawn), np.full(2, 1e-9), damping=DAMPING)
    assert fitted.weight == pytest.approx([0.25, 0.75], abs=1e-4)
    assert fitted.mean == pytest.approx(np.array(mean), abs=0.05)
    assert np.linalg.inv(fitted.precision) == pytest.approx(cov, rel=0.05, abs=0.05)


def test_few_users_hardly_move_a_component_and_none_leave_it_about_nothing():
    rng = np.random.default_rng(4)
    drawn = [rng.normal(size=(n, 3)) @ np.diag([1.0, 2.0, 0.0]) + 5.0 for n in (500, 7, 0)]
    least = np.array([1e-6, 1e-6, 1e-4])
    fitted = Mixture.fitted(moments_of(drawn), least, damping=DAMPING)
    assert fitted.mean[0] == pytest.approx(drawn[0].sum(0) / (500 + DAMPING))
    assert fitted.mean[1] == pytest.approx(drawn[1].sum(0) / (7 + DAMPING))
    assert fitted.mean[2].tolist() == [0, 0, 0]
    assert fitted.weight == pytest.approx(np.array([501, 8, 1]) / 510)
    about = sum((x - m).T @ (x - m) for x, m in zip(drawn, fitted.mean, strict=True)) / 507
    assert np.linalg.inv(fitted.precision) == pytest.approx(about + np.diag(least), rel=1e-6)


def test_clusters_do_not_depend_on_the_order_of_users_or_where_axes_point():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(90, 3)) + np.repeat(np.diag([9.0, 9.0, 9.0]), [60, 20, 10], axis=0)
    variance = np.array([1.0, 4.0, 0.25])
    one, other = (
        Mixture.of_clusters(users, variance, count=3, seed=0) for users in (x, rng.permutation(x))
    )
    order = np.argsort(one.weight)
    assert one.weight[order] == pytest.approx([1 / 9, 2 / 9, 6 / 9])
    assert one.mean[order[0]] == pytest.approx(x[80:].mean(0))
    assert np.array_equal(one.mean, other.mean)
    assert one.precision == pytest.approx(np.diag(1 / variance))

    rotation = np.linalg.qr(rng.normal(size=(2, 2)))[0]
    of_equal = np.array([1.0, 4.0, 4.0])
    plain = Mixture.of_clusters(x, of_equal, count=5, seed=0)
    rotated = Mixture.of_clusters(
        np.hstack([x[:, :1], x[:, 1:] @ rotation]), of_equal, count=5, seed=0
    )
    assert rotated.mean[:, 1:] == pytest.approx(plain.mean[:, 1:] @ rotation)


def test_inverses():
    matrix = spread_matrix(np.random.default_rng(6), 7, 5)
    assert inverse(matrix) == pytest.approx(np.linalg.inv(matrix))
