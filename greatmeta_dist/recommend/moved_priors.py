"""What rating priors predict of an item, by known rating.

The Bayesian factorisation folds a user in (``priors/bayesian_mf_model.py``). With P the prior's
precision, each rating r brings a precision Λ_r and a linear term η_r, and Λ = P + Σ Λ_r. Components
c have the means μ_c and, after the ratings, the shares ρ_c (before: π_c). With μ̄ = Σ ρ_c μ_c

    E[x] = μ̄ + Σ_r Λ⁻¹ (η_r − Λ_r μ̄)

is a sum over ratings but for μ̄, which the ratings move together. The evidence of a component is

    Σ_r e_cr,   e_cr = (m_c + μ_c)·η_r − m_c·Λ_r μ_c      m_c: the component's posterior mean

and the move of μ̄ is shared in proportion to Σ_c (ρ_c − π_c) e_cr: how far a rating speaks for the
components that gained. Both are exact.

Another prior's prediction is split by adding the known ratings one by one, in their order.

Shapes: n known ratings, C components, E numbers of a user.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from greatmeta_dist.priors.base import RatingPrior
from greatmeta_dist.priors.bayesian_mf import BayesianMFPrior
from greatmeta_dist.priors.bayesian_mf_model import BayesianMF
from greatmeta_dist.ragged import Ragged, offsets_of
from greatmeta_dist.recommend.moved import Moved

Floats = NDArray[np.float64]
UNMOVED = 1e-12
"""Shares of components that differ by less are the same."""


@dataclass(frozen=True)
class MovedPriors:
    """Rating priors, for one user."""

    priors: Sequence[RatingPrior]
    support: Ragged
    """The user's known items, as one list."""
    residual: Floats
    """[n] known ratings less content means of their items."""
    num_causes: int

    def at(self, item: int) -> tuple[Moved, float]:
        """The mean of the priors' residuals of an item [1], and how well all know it, 0 to 1."""
        asked = Ragged(np.array([item], np.int32), np.array([0, 1]))
        before, parts, known = 0.0, np.zeros(len(self.residual)), 1.0
        for k, prior in enumerate(self.priors):
            _, knows = prior.predict_residual(self.support, self.residual, asked)
            start, moves = self._of_prior(k, item)
            before += start / len(self.priors)
            parts += moves / len(self.priors)
            known = min(known, float(knows[0]))
        by_cause = torch.zeros(self.num_causes, 1, dtype=torch.float64)
        by_cause[: len(parts), 0] = torch.from_numpy(parts)
        total = torch.tensor([before], dtype=torch.float64)
        return Moved(total, total + by_cause.sum(0), by_cause), known

    def _of_prior(self, number: int, item: int) -> tuple[float, Floats]:
        """A prior's residual with no rating known, and each rating's part of its move [n]."""
        prior = self.priors[number]
        if not isinstance(prior, BayesianMFPrior):
            return _in_order(prior, self.support, self.residual, item)
        before, parts = 0.0, np.zeros(len(self.residual))
        for start, (x_before, x_by_rating) in zip(prior.starts, self._users[number], strict=True):
            place = min(int(np.searchsorted(start.item, item)), len(start.item) - 1)
            t = start.mean[place]
            before += float(t[0] + t[1:] @ x_before) / len(prior.starts)
            parts += x_by_rating @ t[1:] / len(prior.starts)
        return before, parts

    @cached_property
    def _users(self) -> list[list[tuple[Floats, Floats]]]:
        """By prior and start, what ``user_by_rating`` gives; no item is needed for it."""
        return [
            [user_by_rating(start, self.support, self.residual) for start in prior.starts]
            if isinstance(prior, BayesianMFPrior)
            else []
            for prior in self.priors
        ]


def _in_order(
    prior: RatingPrior, support: Ragged, residual: Floats, item: int
) -> tuple[float, Floats]:
    """The residual with no rating known, and what each one adds to those before it [n]."""
    num_rows = len(residual)
    lengths = np.arange(num_rows + 1)
    place = np.concatenate([np.arange(k) for k in lengths]).astype(np.int64)
    growing = Ragged(support.values[support.offsets[0] + place], offsets_of(lengths))
    asked = Ragged(np.full(num_rows + 1, item, np.int32), np.arange(num_rows + 2))
    predicted, _ = prior.predict_residual(growing, residual[place], asked)
    return float(predicted[0]), np.diff(predicted)


def user_by_rating(start: BayesianMF, support: Ragged, residual: Floats) -> tuple[Floats, Floats]:
    """E[x] [E] with no rating known, and each rating's part of its move [n, E].

    Ratings of items that the factorisation does not know have none.
    """
    mixture = start.users
    is_known, position = start.positions(support.values)
    rows, position = np.flatnonzero(is_known), position[is_known]
    loading, variance = start.mean[position, 1:], start.variance[position]
    linear = loading * residual[rows, None] - start.with_offset[position]
    precision = loading.T @ loading + np.diag(variance.sum(0))
    posterior = mixture.posterior(
        precision[None] / start.noise, linear.sum(0, keepdims=True) / start.noise
    )
    mean, share = posterior.mean[:, 0], posterior.responsibility[:, 0]
    centre, before = share @ mixture.mean, mixture.weight @ mixture.mean
    surprise = linear - loading * (loading @ centre)[:, None] - variance * centre
    parts = np.zeros((len(residual), len(centre)))
    parts[rows] = surprise / start.noise @ posterior.covariance[0]
    gain = share - mixture.weight
    if np.abs(gain).max(initial=0) > UNMOVED:
        crossed = (mean @ loading.T) * (mixture.mean @ loading.T)
        crossed += (mean * mixture.mean) @ variance.T
        evidence = (mean + mixture.mean) @ linear.T - crossed
        speaks = gain @ evidence
        parts[rows] += np.outer(speaks / speaks.sum(), centre - before)
    return before, parts
