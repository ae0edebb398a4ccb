"""The Bayesian factorisation one user and one item at a time, nothing packed."""

import numpy as np
from scipy import linalg
from scipy.stats import multivariate_normal
from sklearn.cluster import KMeans

from greatmeta_dist.config.priors import BayesianMFConfig

NUM_FACTORS = BayesianMFConfig().num_factors
WIDTH = NUM_FACTORS + 2


def rotation_of(user_square, item_square):
    """z to unit second moments, then to the axes of the items' v that go with it."""
    whiten = np.linalg.inv(linalg.sqrtm(np.mean(user_square, axis=0)[2:, 2:]))
    back = np.linalg.inv(whiten)
    _, axes = np.linalg.eigh(back @ np.sum(item_square, axis=0)[2:, 2:] @ back.T)
    rotation = np.eye(WIDTH)
    rotation[2:, 2:] = axes[:, ::-1].T @ whiten
    return rotation


class Component:
    """One normal of users' (a, z)."""

    def __init__(self, weight, mean, cov):
        self.weight, self.mean, self.cov = weight, mean, cov

    def given(self, precision, linear):
        """Log of weight × likelihood, but for a constant of the user; posterior mean, cov."""
        cov = np.linalg.inv(np.linalg.inv(self.cov) + precision)
        mean = cov @ (linear + np.linalg.solve(self.cov, self.mean))
        if np.linalg.matrix_rank(precision) < len(precision):
            # A user without ratings; or the first pass, which has one component.
            return np.log(self.weight), mean, cov
        # As if x had been measured, with an error.
        error = np.linalg.inv(precision)
        measured = multivariate_normal(self.mean, self.cov + error)
        return np.log(self.weight) + measured.logpdf(error @ linear), mean, cov


def fitted_by_loops(posteriors, count, least, damping):
    """Components of users' posteriors [(chance, mean, cov) by component]."""
    sizes = [sum(user[k][0] for user in posteriors) for k in range(count)]
    means = [
        sum(user[k][0] * user[k][1] for user in posteriors) / (sizes[k] + damping)
        for k in range(count)
    ]
    covariance = np.diag(least)
    for user in posteriors:
        for (chance, at, cov), mean in zip(user, means, strict=True):
            covariance = covariance + chance * (np.outer(at - mean, at - mean) + cov) / len(
                posteriors
            )
    return [
        Component((size + 1) / (len(posteriors) + count), mean, covariance)
        for size, mean in zip(sizes, means, strict=True)
    ]


def by_loops(value, is_given, mean, *, options, count, seed):
    """The same passes one user and one item at a time, nothing packed."""
    num_users, num_items = value.shape
    prior = np.zeros(WIDTH)
    prior[1] = 1
    item_cov = [np.zeros((WIDTH, WIDTH)) for _ in range(num_items)]
    spread = np.mean(value[is_given] ** 2)
    noise = 0.8 * spread
    of_user = np.array([0.15 * spread, *[1.0] * NUM_FACTORS])
    least = options.min_variance * np.array([spread, *[1.0] * NUM_FACTORS])
    components = [Component(1.0, np.zeros(WIDTH - 1), np.diag(of_user))]
    variance = np.array([0.3 * spread, 0.01, *[0.02 * spread] * NUM_FACTORS])
    mean = mean.copy()
    for number in range(options.num_passes):
        posteriors, user, user_square = [], [], []
        for i in range(num_users):
            precision, linear = np.zeros((WIDTH - 1, WIDTH - 1)), np.zeros(WIDTH - 1)
            for j in np.flatnonzero(is_given[i]):
                square = np.outer(mean[j], mean[j]) + item_cov[j]
                precision += square[1:, 1:] / noise
                linear += (value[i, j] * mean[j, 1:] - square[0, 1:]) / noise
            given = [c.given(precision, linear) for c in components]
            chance = np.exp([g[0] - max(g[0] for g in given) for g in given])
            chance /= chance.sum()
            posteriors.append([(w, g[1], g[2]) for w, g in zip(chance, given, strict=True)])
            h, square = np.zeros(WIDTH), np.zeros((WIDTH, WIDTH))
            for w, at, cov in posteriors[-1]:
                one = np.array([1.0, *at])
                h += w * one
                square += w * np.outer(one, one)
                square[1:, 1:] += w * cov
            user.append(h)
            user_square.append(square)
        rotation = rotation_of(
            user_square, [np.outer(m, m) + c for m, c in zip(mean, item_cov, strict=True)]
        )
        user = [rotation @ h for h in user]
        user_square = [rotation @ s @ rotation.T for s in user_square]
        of_user[0] = np.mean([s[1, 1] for s in user_square])
        of_x = rotation[1:, 1:]
        posteriors = [[(w, of_x @ at, of_x @ cov @ of_x.T) for w, at, cov in u] for u in posteriors]
        if number + 1 < options.num_single:
            components = [Component(1.0, np.zeros(WIDTH - 1), np.diag(of_user))]
        elif number + 1 == options.num_single:
            scaled = np.array(sorted((h[1:] for h in user), key=lambda h: h[0]))
            scaled /= np.sqrt(of_user)
            clusters = KMeans(count, n_init=5, random_state=seed).fit(scaled)
            components = [
                Component(
                    np.mean(clusters.labels_ == k), centre * np.sqrt(of_user), np.diag(of_user)
                )
                for k, centre in enumerate(clusters.cluster_centers_)
            ]
        else:
            components = fitted_by_loops(posteriors, count, least, options.component_damping)
        error = 0.0
        for j in range(num_items):
            precision, linear = np.diag(1 / variance), prior / variance
            for i in np.flatnonzero(is_given[:, j]):
                precision = precision + user_square[i] / noise
                linear = linear + value[i, j] * user[i] / noise
            item_cov[j] = np.linalg.inv(precision)
            mean[j] = item_cov[j] @ linear
            square = np.outer(mean[j], mean[j]) + item_cov[j]
            for i in np.flatnonzero(is_given[:, j]):
                rating = value[i, j]
                error += rating**2 - 2 * rating * mean[j] @ user[i]
                error += np.sum(square * user_square[i])
        if number >= options.num_warm_up:
            noise = error / is_given.sum()
            variance = np.mean(
                [(mean[j] - prior) ** 2 + np.diag(item_cov[j]) for j in range(num_items)], axis=0
            )
    return mean, item_cov, noise, components, variance
