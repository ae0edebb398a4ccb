"""How new items are folded into a fitted factorisation: the mirror image of folding in users.

Given the posterior of the users who rated it, the posterior of an item's t = (d, l, v) is a linear
regression on its ratings, in closed form. A rating r of user i is, with h̄ᵢ = E[hᵢ],

    r − m = h̄ᵢ · t + noise of variance sᵢ²          sᵢ² = σ² + Σₖ var(hᵢₖ) E[tₖ²]

sᵢ² has what is not known of the user, for an item of the prior: so a rating by a user of whom
little is known counts little.

Shapes: U users, J new items, D = 2 + factors, E = D − 1, P = D(D + 1)/2 entries of a packed
symmetric matrix.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from greatmeta_dist.priors.bayesian_mf_model import BayesianMF, FoldedItems
from greatmeta_dist.priors.mixture import Floats, inverse
from greatmeta_dist.priors.packing import Packing
from greatmeta_dist.ragged import Grouped, Ragged

ITEMS_PER_BLOCK = 4096
"""How many are worked on at a time. It bounds memory."""


@dataclass(frozen=True)
class ItemFolding:
    """Folds items into one start of the factorisation."""

    start: BayesianMF

    @property
    def width(self) -> int:
        """D"""
        return len(self.start.item_variance)

    @cached_property
    def packing(self) -> Packing:
        return Packing(self.width)

    @cached_property
    def prior_mean(self) -> Floats:
        """[D] an item's t a priori."""
        mean = np.zeros(self.width)
        mean[1] = 1.0
        return mean

    def user_terms(self, support: Ragged, residual: Floats) -> Floats:
        """What each user adds to the items that it rated: h̄ h̄ᵀ σ²/s², packed, [U, P].

        The first D entries are h̄ σ²/s². ``support`` and ``residual`` are as in
        ``RatingPrior.predict_residual``. A user's numbers have the same bits whoever stands beside
        it.
        """
        start = self.start
        mean, covariance = self._users(support, residual)
        h = np.concatenate([np.ones((len(mean), 1)), mean], 1)
        # E[t²] of an item of the prior, for (l, v).
        square = (start.item_variance + self.prior_mean**2)[1:]
        unknown = np.diagonal(covariance, axis1=1, axis2=2) @ square
        weight = start.noise / (start.noise + unknown)
        terms: Floats = self.packing.outer(h) * weight[:, None]
        return terms

    def _users(self, support: Ragged, residual: Floats) -> tuple[Floats, Floats]:
        """E[x] [U, E] and the covariance of x [U, E, E]; rows of unknown items are left out."""
        start, num_users = self.start, len(support.lengths)
        is_known, position = start.positions(support.values)
        owner = np.repeat(np.arange(num_users), support.lengths)[is_known]
        items = Grouped.of(position[is_known].astype(np.int64))
        offsets = np.zeros(num_users + 1, np.int64)
        np.cumsum(np.bincount(owner, minlength=num_users), out=offsets[1:])

        def sums(value: Floats, of_item: Floats) -> Floats:
            # A row of a sparse product is added up entry by entry, in the order of the user's rows.
            shape = (num_users, len(items.distinct))
            total: Floats = sparse.csr_matrix((value, items.index, offsets), shape) @ of_item
            return total

        loading, about = start.mean[items.distinct, 1:], start.with_offset[items.distinct]
        packing = Packing(self.width - 1)
        square = packing.outer(loading)
        square[:, packing.is_diagonal] += start.variance[items.distinct]
        ones = np.ones(len(owner))
        precision = packing.unpack(sums(ones, square)) / start.noise
        linear = (sums(residual[is_known], loading) - sums(ones, about)) / start.noise
        mean, second = start.users.posterior(precision, linear).moments()
        return mean, second - mean[:, :, None] * mean[:, None, :]

    def posterior(
        self, squares: Floats, linear: Floats, item: NDArray[np.int64], *, offset_variance: float
    ) -> FoldedItems:
        """The posterior of new items [J], which ``item`` [J] names, ascending.

        ``squares`` [J, P] are sums of users' terms, and ``linear`` [J, D] of their first D times
        the rating less m. ``offset_variance`` is the prior's of an item that is predicted from
        features without its own ratings.

        An item is known as far as its ratings have taken away the variance of its predictions.
        """
        prior = self.start.item_variance.copy()
        prior[0] = max(prior[0], offset_variance)
        moment, width = self._user_moment(), self.width
        before = float(prior @ np.diag(moment))
        mean, known = np.zeros((len(item), width)), np.zeros(len(item))
        variance, with_offset = (np.zeros((len(item), width - 1)) for _ in range(2))
        for first in range(0, len(item), ITEMS_PER_BLOCK):
            block = slice(first, first + ITEMS_PER_BLOCK)
            precision = self.packing.unpack(squares[block]) / self.start.noise
            covariance = inverse(precision + np.diag(1 / prior))
            both = linear[block] / self.start.noise + self.prior_mean / prior
            t = (covariance @ both[:, :, None])[:, :, 0]
            mean[block], variance[block] = t, np.diagonal(covariance, axis1=1, axis2=2)[:, 1:]
            with_offset[block] = t[:, :1] * t[:, 1:] + covariance[:, 0, 1:]
            known[block] = 1 - (covariance * moment).sum((1, 2)) / before
        return FoldedItems(item, mean, variance, with_offset, np.clip(known, 0, 1))

    def _user_moment(self) -> Floats:
        """[D, D] E[h hᵀ] of a user of the prior."""
        users = self.start.users
        mean = users.weight @ users.mean
        moment = np.empty((self.width, self.width))
        moment[0, 0], moment[0, 1:], moment[1:, 0] = 1.0, mean, mean
        moment[1:, 1:] = np.linalg.inv(users.precision)
        moment[1:, 1:] += (users.weight[:, None] * users.mean).T @ users.mean
        return moment
