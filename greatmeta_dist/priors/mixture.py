"""The prior of users in the Bayesian factorisation: a mixture of normals.

With a single normal, users of a small group are unlikely members of the crowd, and their estimates
are drawn towards it. In a mixture a few ratings tell which component a user is of. Components
differ in mean and weight only. Covariances of their own would serve small groups better, and
overfit where users have few ratings (``docs/decisions.md``). Components are estimated like
everything else: no known groups are used.

Shapes: C components, U users, E numbers of a user x.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Posterior:
    """Posteriors of users' x, given ratings: for each user one normal a component."""

    responsibility: Floats
    """[C, U] probability that the user is of the component."""
    mean: Floats
    """[C, U, E]"""
    covariance: Floats
    """[U, E, E], the same for all components."""

    def moments(self) -> tuple[Floats, Floats]:
        """E[x] [U, E] and E[x xᵀ] [U, E, E]."""
        weighted = self.responsibility[..., None] * self.mean
        square = weighted.transpose(1, 2, 0) @ self.mean.transpose(1, 0, 2)
        return weighted.sum(0), self.covariance + square


@dataclass(frozen=True)
class Moments:
    """Sums over users, to which a mixture is fitted."""

    count: Floats
    """[C] Σ responsibilities."""
    total: Floats
    """[C, E] Σ responsibility · E[x]."""
    square: Floats
    """[E, E] Σ E[x xᵀ] over all users."""

    @classmethod
    def zeros(cls, mixture: "Mixture") -> "Moments":
        """The sums over no users."""
        return cls(
            np.zeros(len(mixture.weight)),
            np.zeros_like(mixture.mean),
            np.zeros_like(mixture.precision),
        )

    def plus(self, users: Posterior, square: Floats) -> "Moments":
        """The sums with more users, whose E[x xᵀ] are ``square`` [U, E, E]."""
        total = (users.responsibility[:, None] @ users.mean)[:, 0]
        return Moments(
            self.count + users.responsibility.sum(1),
            self.total + total,
            self.square + square.sum(0),
        )

    def rotated(self, rotation: Floats) -> "Moments":
        """The sums of ``rotation`` [E, E] times x in place of x."""
        return Moments(self.count, self.total @ rotation.T, rotation @ self.square @ rotation.T)


@dataclass(frozen=True)
class Mixture:
    """C normals with one covariance."""

    weight: Floats
    """[C] share of users of each component; sums to 1."""
    mean: Floats
    """[C, E]"""
    precision: Floats
    """[E, E] inverse of the components' common covariance."""

    @classmethod
    def single(cls, variance: Floats) -> "Mixture":
        """One normal about 0 with independent entries of these variances [E]."""
        return cls(np.ones(1), np.zeros((1, len(variance))), np.diag(1 / variance))

    @classmethod
    def of_clusters(cls, x: Floats, variance: Floats, *, count: int, seed: int) -> "Mixture":
        """Components at the k-means clusters of users' x [U, E], each with variances [E].

        Distances are in units of the variances.
        """
        # Here, for scikit-learn takes long to import, and a saved mixture is used without it.
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

        # k-means starts at random users. Sorted by their offset, these are the same whatever order
        # users came in, and whichever way the axes of the factors point.
        scaled = x[np.argsort(x[:, 0])] / np.sqrt(variance)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # users may be all the same
            cluster = KMeans(count, n_init=5, random_state=seed).fit(scaled).labels_
        size = np.maximum(np.bincount(cluster, minlength=count), 1)
        # The bits of KMeans' own centres depend on the number of threads; these sums do not.
        total = np.stack([scaled[cluster == c].sum(0) for c in range(count)])
        mean = total / size[:, None] * np.sqrt(variance)
        return cls(size / size.sum(), mean, np.diag(1 / variance))

    @classmethod
    def fitted(cls, moments: Moments, min_variance: Floats, *, damping: float) -> "Mixture":
        """The mixture that fits users best, with priors on means and weights.

        A mean has ``damping`` users' worth of prior at 0, and a weight is that of one user more.
        ``min_variance`` [E] is added to the diagonal of the covariance.
        """
        count = moments.count[:, None]
        mean = moments.total / (count + damping)
        crossed = moments.total.T @ mean
        about_means = moments.square - crossed - crossed.T + mean.T @ (count * mean)
        covariance = about_means / count.sum() + np.diag(min_variance)
        weight = (moments.count + 1) / (moments.count + 1).sum()
        return cls(weight, mean, np.linalg.inv(covariance))

    def posterior(self, precision: Floats, linear: Floats) -> Posterior:
        """Users' posteriors from what their ratings say of x.

        The log likelihood of a user's ratings is linear · x − ½ x · precision x, up to a constant:
        ``precision`` is [U, E, E], ``linear`` [U, E].
        """
        covariance = inverse(precision + self.precision)
        prior_linear = self.mean @ self.precision
        # Log densities are quadratic in x, so prior and likelihood add up term by term.
        both = linear + prior_linear[:, None]
        mean = (covariance @ both.transpose(1, 2, 0)).transpose(2, 0, 1)
        # Log evidence of a component: half of (mean · linear term) after the ratings less the same
        # before them. What all components share, such as determinants, cancels.
        evidence = (mean * both).sum(2) - (prior_linear * self.mean).sum(1)[:, None]
        log_weight = np.log(self.weight)[:, None] + evidence / 2
        # Less the largest, so that exp does not overflow.
        likelihood = np.exp(log_weight - log_weight.max(0))
        return Posterior(likelihood / likelihood.sum(0), mean, covariance)


def inverse(matrix: Floats) -> Floats:
    """Inverses of positive definite matrices [n, D, D].

    By Cholesky, in torch, because numpy has no batched form; twice as fast as ``np.linalg.inv``.
    """
    root = torch.linalg.cholesky(torch.from_numpy(matrix))
    inverses: Floats = torch.cholesky_inverse(root).numpy()
    return inverses
