"""What users are like before they rate: a mixture of normals, its components' users alike.

A single normal takes those of a small group for unlikely members of the crowd, and draws them to
it. Components have means and covariances of their own, estimated from the training users (DESIGN.md
section 1: preference groups of very different sizes); no labels are used.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans

Floats = NDArray[np.float64]

PRIOR_USERS = 30.0
"""Users' worth of prior of a component's covariance: that within components, of all of them."""


@dataclass(frozen=True)
class Posterior:
    """What n users are like, given ratings: of each component of C, a normal and its chance."""

    chance: Floats
    """[C, n]"""
    mean: Floats
    """[C, n, E]"""
    covariance: Floats
    """[C, n, E, E]"""
    evidence: Floats
    """[n] log of the ratings' likelihood, but for what no mixture changes."""

    def expected(self) -> tuple[Floats, Floats]:
        """E[x] [n, E] and E[x xᵀ] [n, E, E]."""
        weighted = self.chance[..., None] * self.mean
        square = np.einsum("cn,cnde->nde", self.chance, self.covariance)
        for one, other in zip(weighted, self.mean, strict=True):
            square += one[:, :, None] * other[:, None, :]
        return weighted.sum(0), square

    def moments(self) -> "Moments":
        weighted = self.chance[..., None] * self.mean
        return Moments(
            self.chance.sum(1),
            weighted.sum(1),
            np.einsum("cn,cnde->cde", self.chance, self.covariance)
            + weighted.transpose(0, 2, 1) @ self.mean,
        )


@dataclass(frozen=True)
class Moments:
    """Sums over users, of each component with its chance: 1, E[x], E[x xᵀ]."""

    count: Floats
    """[C]"""
    total: Floats
    """[C, E]"""
    square: Floats
    """[C, E, E]"""

    @classmethod
    def none(cls, of: "Mixture") -> "Moments":
        return cls(np.zeros(len(of.share)), np.zeros_like(of.mean), np.zeros_like(of.precision))

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count, self.total + other.total, self.square + other.square
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
    """[C, E, E], inverse covariances."""

    @classmethod
    def of_one(cls, variance: Floats) -> "Mixture":
        """One normal about 0, of uncorrelated numbers of these variances [E]."""
        return cls(np.ones(1), np.zeros((1, len(variance))), np.diag(1 / variance)[None])

    @classmethod
    def of_clusters(cls, x: Floats, variance: Floats, *, count: int, seed: int) -> "Mixture":
        """k-means clusters of users' x [n, E] in units of ``variance`` [E], all as wide as that.

        In whatever order the users are, and wherever axes of equal variance, but the first, point.
        """
        scaled = x[np.argsort(x[:, 0])] / np.sqrt(variance)
        found = KMeans(count, n_init=5, random_state=seed).fit(scaled)
        size = np.bincount(found.labels_, minlength=count)
        precision = np.tile(np.diag(1 / variance), (count, 1, 1))
        return cls(size / len(x), found.cluster_centers_ * np.sqrt(variance), precision)

    @classmethod
    def fitted(cls, moments: Moments, least: Floats) -> "Mixture":
        """The most likely one, with priors.

        Every component has one more user, at 0, of no spread; and ``PRIOR_USERS`` more in its
        covariance, as that within all components, which is at least ``least`` [E] on its diagonal.
        """
        count = moments.count[:, None, None]
        mean = moments.total / (moments.count[:, None] + 1)
        crossed = moments.total[:, :, None] * mean[:, None, :]
        about = moments.square - crossed - crossed.transpose(0, 2, 1)
        about += (count + 1) * mean[:, :, None] * mean[:, None, :]
        within = about.sum(0) / moments.count.sum() + np.diag(least)
        precision, _ = inverse((about + PRIOR_USERS * within) / (count + PRIOR_USERS))
        share = (moments.count + 1) / (moments.count + 1).sum()
        return cls(share, mean, precision)

    def posterior(self, precision: Floats, said: Floats) -> Posterior:
        """Of n users whose ratings' log likelihood is said · x − x · precision x/2 and a constant.

        ``precision`` is [n, E, E], ``said`` [n, E].
        """
        chance = np.empty((len(self.share), len(said)))
        mean = np.empty((*chance.shape, said.shape[1]))
        covariance = np.empty((*mean.shape, said.shape[1]))
        sizes = np.linalg.slogdet(self.precision)[1]
        for c, own in enumerate(self.precision):
            towards = said + own @ self.mean[c]
            covariance[c], log_size = inverse(precision + own)
            mean[c] = (covariance[c] @ towards[:, :, None])[:, :, 0]
            fit = (mean[c] * towards).sum(1) - self.mean[c] @ own @ self.mean[c]
            chance[c] = np.log(self.share[c]) + (sizes[c] - log_size + fit) / 2
        top = chance.max(0)
        chance = np.exp(chance - top)
        total = chance.sum(0)
        return Posterior(chance / total, mean, covariance, np.log(total) + top)


def inverse(matrix: Floats) -> tuple[Floats, Floats]:
    """Inverses of positive definite matrices [n, D, D], and the logs of their determinants [n]."""
    root = torch.linalg.cholesky(torch.from_numpy(matrix))
    size = 2 * torch.log(torch.diagonal(root, dim1=1, dim2=2)).sum(1)
    return torch.cholesky_inverse(root).numpy(), size.numpy()
