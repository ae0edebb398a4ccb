"""What users are like before they rate: a mixture of normals about the centres of groups.

A single normal takes those of a small group for unlikely members of the crowd, and draws them to
it. The components differ in their means and shares alone: covariances of their own fit groups a
little better, and learn by heart where users have few ratings (docs/findings.md). Estimated from
the training users; no labels are used.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

Floats = NDArray[np.float64]

USERS_AT_NONE = 10.0
"""Users' worth of prior that a component's mean is 0."""


@dataclass(frozen=True)
class Posterior:
    """What n users are like, given ratings: of each component of C, a normal and its chance."""

    chance: Floats
    """[C, n]"""
    mean: Floats
    """[C, n, E]"""
    covariance: Floats
    """[n, E, E], the same of all components."""

    def expected(self) -> tuple[Floats, Floats]:
        """E[x] [n, E] and E[x xᵀ] [n, E, E]."""
        weighted = self.chance[..., None] * self.mean
        square = weighted.transpose(1, 2, 0) @ self.mean.transpose(1, 0, 2)
        return weighted.sum(0), self.covariance + square


@dataclass(frozen=True)
class Moments:
    """Sums over users: of each component with its chance, 1 and E[x]; of all, E[x xᵀ]."""

    count: Floats
    """[C]"""
    total: Floats
    """[C, E]"""
    square: Floats
    """[E, E]"""

    @classmethod
    def none(cls, of: "Mixture") -> "Moments":
        return cls(np.zeros(len(of.share)), np.zeros_like(of.mean), np.zeros_like(of.precision))

    def plus(self, found: Posterior, square: Floats) -> "Moments":
        """With n more users, whose E[x xᵀ] are ``square`` [n, E, E]."""
        total = (found.chance[:, None] @ found.mean)[:, 0]
        return Moments(
            self.count + found.chance.sum(1), self.total + total, self.square + square.sum(0)
        )

    def turned(self, turn: Floats) -> "Moments":
        """Of ``turn`` [E, E] times x."""
        return Moments(self.count, self.total @ turn.T, turn @ self.square @ turn.T)


@dataclass(frozen=True)
class Mixture:
    """C normals of users' x [E], and how many users each has."""

    share: Floats
    """[C], of sum 1."""
    mean: Floats
    """[C, E]"""
    precision: Floats
    """[E, E], the inverse covariance of all."""

    @classmethod
    def of_one(cls, variance: Floats) -> "Mixture":
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
            found = KMeans(count, n_init=5, random_state=seed).fit(scaled)
        size = np.maximum(np.bincount(found.labels_, minlength=count), 1)
        centres = found.cluster_centers_ * np.sqrt(variance)
        return cls(size / len(x), centres, np.diag(1 / variance))

    @classmethod
    def fitted(cls, moments: Moments, least: Floats) -> "Mixture":
        """The most likely one, with priors: ``USERS_AT_NONE``, and one more user of each component.

        ``least`` [E] is added to the diagonal of the covariance.
        """
        count = moments.count[:, None]
        mean = moments.total / (count + USERS_AT_NONE)
        crossed = moments.total.T @ mean
        about = moments.square - crossed - crossed.T + mean.T @ (count * mean)
        covariance = about / count.sum() + np.diag(least)
        share = (moments.count + 1) / (moments.count + 1).sum()
        return cls(share, mean, np.linalg.inv(covariance))

    def posterior(self, precision: Floats, said: Floats) -> Posterior:
        """Of n users whose ratings' log likelihood is said · x − x · precision x/2 and a constant.

        ``precision`` is [n, E, E], ``said`` [n, E].
        """
        covariance = inverse(precision + self.precision)
        own = self.mean @ self.precision
        towards = said + own[:, None]
        mean = (covariance @ towards.transpose(1, 2, 0)).transpose(2, 0, 1)
        fit = (mean * towards).sum(2) - (own * self.mean).sum(1)[:, None]
        chance = np.log(self.share)[:, None] + fit / 2
        chance = np.exp(chance - chance.max(0))
        return Posterior(chance / chance.sum(0), mean, covariance)


def inverse(matrix: Floats) -> Floats:
    """Of positive definite matrices [n, D, D]; twice as fast as numpy's of any matrices."""
    root = torch.linalg.cholesky(torch.from_numpy(matrix))
    found: Floats = torch.cholesky_inverse(root).numpy()
    return found
