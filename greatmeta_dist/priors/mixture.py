"""What users are like before they rate: a mixture of normals about the centres of groups.

A single normal takes those of a small group for unlikely members of the crowd, and draws them to
it. The components differ in their means and weights alone: covariances of their own serve small
groups better, and learn by heart where users have few ratings (docs/findings.md). Estimated from
the training users; no known groups are used.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

Floats = NDArray[np.float64]

PRIOR_COUNT = 10.0
"""Users, at 0, that a component's mean has for a prior."""


@dataclass(frozen=True)
class Posterior:
    """What n users are like, given ratings: a normal by component of C, and its responsibility."""

    responsibility: Floats
    """[C, n]"""
    mean: Floats
    """[C, n, E]"""
    covariance: Floats
    """[n, E, E], the same of all components."""

    def expected(self) -> tuple[Floats, Floats]:
        """E[x] [n, E] and E[x xᵀ] [n, E, E]."""
        weighted = self.responsibility[..., None] * self.mean
        square = weighted.transpose(1, 2, 0) @ self.mean.transpose(1, 0, 2)
        return weighted.sum(0), self.covariance + square


@dataclass(frozen=True)
class Moments:
    """Sums over users: by component, responsibilities and E[x] by these; of all, E[x xᵀ]."""

    count: Floats
    """[C]"""
    total: Floats
    """[C, E]"""
    square: Floats
    """[E, E]"""

    @classmethod
    def none(cls, of: "Mixture") -> "Moments":
        return cls(np.zeros(len(of.weight)), np.zeros_like(of.mean), np.zeros_like(of.precision))

    def plus(self, found: Posterior, square: Floats) -> "Moments":
        """With n more users, whose E[x xᵀ] are ``square`` [n, E, E]."""
        total = (found.responsibility[:, None] @ found.mean)[:, 0]
        return Moments(
            self.count + found.responsibility.sum(1),
            self.total + total,
            self.square + square.sum(0),
        )

    def turned(self, turn: Floats) -> "Moments":
        """Of ``turn`` [E, E] times x."""
        return Moments(self.count, self.total @ turn.T, turn @ self.square @ turn.T)


@dataclass(frozen=True)
class Mixture:
    """C normals of users' x [E]."""

    weight: Floats
    """[C], the share of users that each has; of sum 1."""
    mean: Floats
    """[C, E]"""
    precision: Floats
    """[E, E], the inverse covariance of all."""

    @classmethod
    def single(cls, variance: Floats) -> "Mixture":
        """One normal about 0, of uncorrelated numbers of these variances [E]."""
        return cls(np.ones(1), np.zeros((1, len(variance))), np.diag(1 / variance))

    @classmethod
    def of_clusters(cls, x: Floats, variance: Floats, *, count: int, seed: int) -> "Mixture":
        """k-means clusters of users' x [n, E] in units of ``variance`` [E], all as wide as that.

        In whatever order the users are, and wherever axes of equal variance, but the first, point.
        """
        scaled = x[np.argsort(x[:, 0])] / np.sqrt(variance)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of users who are all the same
            cluster = KMeans(count, n_init=5, random_state=seed).fit(scaled).labels_
        size = np.maximum(np.bincount(cluster, minlength=count), 1)
        # KMeans' own centres have bits that depend on threads.
        total = np.stack([scaled[cluster == c].sum(0) for c in range(count)])
        mean = total / size[:, None] * np.sqrt(variance)
        return cls(size / size.sum(), mean, np.diag(1 / variance))

    @classmethod
    def fitted(cls, moments: Moments, least: Floats) -> "Mixture":
        """The mixture that fits users best, means and weights with a prior.

        That of means is ``PRIOR_COUNT``, of weights one user more of each component. The covariance
        is that about these means, and ``least`` [E] on its diagonal.
        """
        count = moments.count[:, None]
        mean = moments.total / (count + PRIOR_COUNT)
        crossed = moments.total.T @ mean
        about = moments.square - crossed - crossed.T + mean.T @ (count * mean)
        covariance = about / count.sum() + np.diag(least)
        weight = (moments.count + 1) / (moments.count + 1).sum()
        return cls(weight, mean, np.linalg.inv(covariance))

    def posterior(self, precision: Floats, linear: Floats) -> Posterior:
        """Of n users whose ratings' log likelihood is linear · x − x · precision x/2 and more.

        ``precision`` is [n, E, E], ``linear`` [n, E].
        """
        covariance = inverse(precision + self.precision)
        own = self.mean @ self.precision
        both = linear + own[:, None]
        mean = (covariance @ both.transpose(1, 2, 0)).transpose(2, 0, 1)
        fit = (mean * both).sum(2) - (own * self.mean).sum(1)[:, None]
        log = np.log(self.weight)[:, None] + fit / 2
        likelihood = np.exp(log - log.max(0))
        return Posterior(likelihood / likelihood.sum(0), mean, covariance)


def inverse(matrix: Floats) -> Floats:
    """Of positive definite matrices [n, D, D]; twice as fast as numpy's of any matrices."""
    root = torch.linalg.cholesky(torch.from_numpy(matrix))
    found: Floats = torch.cholesky_inverse(root).numpy()
    return found
