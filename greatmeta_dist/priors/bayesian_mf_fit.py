"""Fits the Bayesian factorisation: variational passes over the ratings.

The posterior is approximated by a product over users and items (Lim and Teh, *Variational Bayesian
approach to movie rating prediction*, KDD Cup 2007). An item's is a normal, a user's a mixture of
normals, all of full covariance. So an item with few ratings stays near its prior, and its
uncertainty is taken into account when users are estimated from it.

Each pass updates all users given the items, then all items given the users, then the priors'
variances and the noise. Users are never stored: a block of them is updated, added to the items'
sums and dropped.

Shapes and symbols as in ``bayesian_mf_model``; P = D(D + 1)/2 entries of a packed symmetric matrix.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from greatmeta_dist.config.priors import BayesianMFConfig, PriorsConfig
from greatmeta_dist.priors.base import Progress, TrainingRows, most_rated, ratings_per_item
from greatmeta_dist.priors.bayesian_mf_model import BayesianMF
from greatmeta_dist.priors.mixture import Floats, Mixture, Moments, inverse
from greatmeta_dist.priors.packing import Packing

USERS_PER_BLOCK = 16_384
ITEMS_PER_BLOCK = 4096
"""How many are worked on at a time. It bounds memory."""

Chunks = Callable[[], Iterable[sparse.csr_matrix]]
"""Users' residual ratings [U, I] with an entry for every rating, even 0; the same at every call."""


def fit_starts(
    rows: TrainingRows, options: PriorsConfig, content_mean: Floats, progress: Progress
) -> list[BayesianMF]:
    """Factorise the first training users' ratings, once for each start.

    An item is left out where most of its ratings were not read: it would be taken for an item that
    few users rate, and known for no more than these ratings tell.
    """
    section = options.bayesian_mf
    progress("Bayesian factorisation", 0)
    matrices = [
        chunk.matrix(chunk.rating - content_mean[chunk.item.values], rows.num_items)
        for chunk in rows.first_users(max_ratings=section.max_ratings)
    ]
    num_read = ratings_per_item(matrices, rows.num_items)
    is_enough = num_read >= np.minimum(rows.item_count, section.min_item_ratings)
    item = most_rated(num_read * is_enough if is_enough.any() else num_read, section.max_items)
    if len(item) < rows.num_items:
        matrices = [m[:, item] for m in matrices]
    count = num_starts(int(num_read.sum()), section)
    num_passes = 0

    def chunks() -> list[sparse.csr_matrix]:
        nonlocal num_passes
        progress("Bayesian factorisation", num_passes / count / (section.num_passes + 1))
        num_passes += 1
        return matrices

    return [
        factorise(chunks, item, options=section, seed=(options.seed, start))
        for start in range(count)
    ]


def num_starts(num_ratings: int, options: BayesianMFConfig) -> int:
    """How many random starts a log of so many ratings gets."""
    affordable = options.max_start_ratings // max(1, num_ratings)
    return min(options.num_starts, max(1, affordable))


def factorise(
    chunks: Chunks,
    item: NDArray[np.int64],
    *,
    options: BayesianMFConfig,
    seed: tuple[int, int],
) -> BayesianMF:
    """Factorise users' residual ratings of items [I]; ``seed`` is (of the log, of the start).

    Memory grows with I and the largest chunk. The chunks are read ``num_passes`` + 1 times.
    """
    count, square_sum = 0, 0.0
    for chunk in chunks():
        count, square_sum = count + chunk.nnz, square_sum + float(chunk.data @ chunk.data)
    # Mean square of the ratings. Starting values are in its unit, so that ratings in other units
    # give the same fit in those.
    spread = square_sum / count or 1.0
    packing = Packing(options.num_factors + 2)
    random = np.random.default_rng([*seed, 41])
    items = _Items.at_random(len(item), packing, spread, options, random)
    cluster_seed = int(random.integers(1 << 31))
    noise = 0.8 * spread
    prior = Mixture.single(_user_variance(0.15 * spread, options))

    for number in range(options.num_passes):
        is_clustering = number + 1 == options.num_single
        users = _Users(prior, packing, num_kept=options.max_clustered if is_clustering else 0)
        item_moments = items.second_moments()
        # For each item, Σ E[h hᵀ] [I, P] and Σ r E[h] [I, D] over the users who rated it.
        user_squares, user_linear = np.zeros_like(items.covariance), np.zeros_like(items.mean)
        for block in _blocks(chunks()):
            # Sums over a user's items, and over an item's users, are products with the sparse
            # ratings or with their pattern: no loop, and no array of ratings × D.
            ones = np.ones_like(block.data)
            is_rated = sparse.csr_matrix((ones, block.indices, block.indptr), block.shape)
            mean, squares = users.update(block @ items.mean, is_rated @ item_moments, noise)
            user_squares += is_rated.T @ squares
            user_linear += block.T @ mean
        rotation = _rotation(users.moments, item_moments.sum(0), packing)
        prior = users.fit_prior(number, rotation, options, spread=spread, seed=cluster_seed)
        error = items.update(user_squares, user_linear @ rotation.T, rotation, noise, square_sum)
        if number >= options.num_warm_up:
            noise = max(error / count, options.min_variance * spread)
            items.update_variance(options.min_variance)
    return BayesianMF(
        item,
        mean=items.mean,
        variance=items.covariance[:, packing.is_diagonal][:, 1:],
        # E[d] E[(l, v)] and their covariance: row 0 but its diagonal, packed entries 1 to D − 1.
        with_offset=items.mean[:, :1] * items.mean[:, 1:] + items.covariance[:, 1 : packing.width],
        noise=noise,
        users=prior,
        item_variance=items.variance,
    )


class _Items:
    """The items' side: their posterior, and the variances of their prior."""

    def __init__(self, mean: Floats, unit: Floats, variance: Floats, packing: Packing):
        self.packing = packing
        self.mean = mean
        """[I, D] posterior means."""
        self.covariance = np.zeros((len(mean), len(packing.row)))
        """[I, P] posterior covariances, packed."""
        self.prior_mean = np.zeros(packing.width)
        """[D]"""
        self.prior_mean[1] = 1.0  # the loading on users' offsets
        self.variance = variance
        """[D] the prior's variances."""
        self.unit = unit
        """[D] mean square of the ratings where a number is in their unit, else 1."""

    @classmethod
    def at_random(
        cls,
        num_items: int,
        packing: Packing,
        spread: float,
        options: BayesianMFConfig,
        random: np.random.Generator,
    ) -> "_Items":
        """Small random factors; the variances are guesses until the warm-up is over."""
        # Users' factors have variance 1, so items' factors and offsets are in the ratings' unit.
        unit = np.full(packing.width, spread)
        unit[1] = 1.0  # the loading has no unit
        start = np.concatenate(([0.3, 0.01], np.full(options.num_factors, 0.02)))
        mean = np.zeros((num_items, packing.width))
        mean[:, 1] = 1.0
        factors = random.normal(0, 0.1, (num_items, options.num_factors))
        mean[:, 2:] = factors * spread**0.5
        return cls(mean, unit, unit * start, packing)

    def second_moments(self) -> Floats:
        """E[t tᵀ], packed: [I, P]."""
        return self.packing.outer(self.mean) + self.covariance

    def update(
        self,
        user_squares: Floats,
        user_linear: Floats,
        rotation: Floats,
        noise: float,
        square_sum: float,
    ) -> float:
        """Update the posterior in place from the users' sums; returns Σ E[(r − h·t)²] over ratings.

        ``user_squares`` [I, P] are yet to be rotated, ``user_linear`` [I, D] is rotated already.
        ``square_sum`` is Σ r² over all ratings: the error is Σ r² − 2 Σ r E[h·t] + Σ E[(h·t)²].
        """
        error = square_sum
        for start in range(0, len(self.mean), ITEMS_PER_BLOCK):
            block = slice(start, start + ITEMS_PER_BLOCK)
            squares = rotation @ self.packing.unpack(user_squares[block]) @ rotation.T
            covariance = inverse(squares / noise + np.diag(1 / self.variance))
            linear = user_linear[block] / noise + self.prior_mean / self.variance
            self.mean[block] = (covariance @ linear[:, :, None])[:, :, 0]
            self.covariance[block] = self.packing.pack(covariance)
            mean = self.mean[block]
            moment = mean[:, :, None] * mean[:, None, :] + covariance
            error += float((squares * moment).sum() - 2 * (mean * user_linear[block]).sum())
        return error

    def update_variance(self, min_variance: float) -> None:
        """Re-estimate the prior's variances from the posterior, in place."""
        about_prior = (self.mean - self.prior_mean) ** 2
        about_prior += self.covariance[:, self.packing.is_diagonal]
        self.variance = np.maximum(about_prior.mean(0), min_variance * self.unit)


def _blocks(chunks: Iterable[sparse.csr_matrix]) -> Iterator[sparse.csr_matrix]:
    """Cut chunks into blocks of users."""
    for chunk in chunks:
        for start in range(0, chunk.shape[0], USERS_PER_BLOCK):
            yield chunk[start : start + USERS_PER_BLOCK]


class _Users:
    """The users' side of one pass: sums over users, and E[x] of the first ``num_kept`` of them."""

    def __init__(self, prior: Mixture, packing: Packing, *, num_kept: int):
        self._prior, self._packing = prior, packing
        self.moments = Moments.zeros(prior)
        self._kept: list[Floats] = []
        self._num_to_keep = num_kept

    def update(self, linear: Floats, item_squares: Floats, noise: float) -> tuple[Floats, Floats]:
        """E[h] [U, D] and E[h hᵀ], packed, of a block of users.

        Takes sums over each user's ratings: Σ r E[t] [U, D] and Σ E[t tᵀ] [U, P].
        """
        squares = self._packing.unpack(item_squares)
        # r − d in place of r: what items' offsets explain is not evidence of the user.
        about_offsets = (linear[:, 1:] - squares[:, 0, 1:]) / noise
        posterior = self._prior.posterior(squares[:, 1:, 1:] / noise, about_offsets)
        mean, square = posterior.moments()
        self.moments = self.moments.plus(posterior, square)
        if self._num_to_keep:
            self._kept.append(mean[: self._num_to_keep])
            self._num_to_keep -= len(self._kept[-1])
        h = np.hstack([np.ones((len(linear), 1)), mean])
        # h = (1, x): the first D packed entries of h hᵀ are h itself.
        width, row, column = self._packing.width, self._packing.row, self._packing.column
        return h, np.hstack([h, square[:, row[width:] - 1, column[width:] - 1]])

    def fit_prior(
        self,
        number: int,
        rotation: Floats,
        options: BayesianMFConfig,
        *,
        spread: float,
        seed: int,
    ) -> Mixture:
        """The users' prior after pass ``number``: one normal at first, then a mixture.

        The mixture starts at k-means clusters of users, once there are factors worth clustering.
        """
        moments = self.moments.rotated(rotation[1:, 1:])
        count = moments.count.sum()
        offset_variance = moments.square[0, 0] / count
        min_offset = options.min_variance * spread
        variance = _user_variance(max(offset_variance, min_offset), options)
        if number + 1 < options.num_single:
            return Mixture.single(variance)
        if number + 1 > options.num_single:
            min_variance = options.min_variance * _user_variance(spread, options)
            return Mixture.fitted(moments, min_variance, damping=options.component_damping)
        kept = np.concatenate(self._kept) @ rotation[1:, 1:].T
        affordable = max(1, int(count) // options.min_component_users)
        num_components = min(options.num_components, affordable)
        return Mixture.of_clusters(kept, variance, count=num_components, seed=seed)


def _rotation(users: Moments, item_squares: Floats, packing: Packing) -> Floats:
    """[D, D] by which users are multiplied after each pass, so that passes converge.

    For any invertible M, users M z and items M⁻ᵀ v predict the same as z and v: only the priors
    choose between them. Passes hardly move along that freedom, since each holds one side fixed:
    without this step their result still depended on the start after 30 passes. So after each pass
    M is taken where the priors fit best: E[z zᵀ] becomes the identity and the sum of E[v vᵀ]
    diagonal (Ilin and Raiko, *Practical approaches to principal component analysis in the presence
    of missing values*, JMLR 2010). Items are not multiplied: they are updated next, from the
    rotated users.

    ``item_squares`` [P] is the sum of E[t tᵀ] over items.
    """
    size, axes = np.linalg.eigh(users.square[1:, 1:] / users.count.sum())
    root, inverse_root = (axes * size**power @ axes.T for power in (0.5, -0.5))
    item_square = packing.unpack(item_squares[None])[0, 2:, 2:]
    _, axes = np.linalg.eigh(root @ item_square @ root)
    rotation = np.eye(packing.width)
    rotation[2:, 2:] = axes[:, ::-1].T @ inverse_root
    return rotation


def _user_variance(offset: float, options: BayesianMFConfig) -> Floats:
    """[E] variances of a user's offset and factors; factors have variance 1 by convention."""
    return np.concatenate(([offset], np.ones(options.num_factors)))
