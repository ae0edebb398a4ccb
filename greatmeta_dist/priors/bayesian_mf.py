"""Bayesian matrix factorisation of the training ratings, and how new users are folded in.

r_ij = mⱼ + h_i · t_j + noise, with mⱼ what item j's features lead to expect, h_i = (1, a_i, z_i)
and t_j = (d_j, l_j, v_j): an item's offset d, a user's offset a with a loading l about 1, and
``NUM_FACTORS`` factors. A priori an item's numbers are normal, of variances that are estimated, so
that what the ratings do not bear out comes to nothing; a user's are of one of ``NUM_COMPONENTS``
normals (``mixture``), so that users of a small group are told from unusual ones of a large one. The
posterior is taken as a product over users and items (Lim and Teh, *Variational Bayesian approach to
movie rating prediction*, KDD Cup 2007), an item's normal, a user's a mixture of normals, all of
full covariance: an item of few ratings stays near its prior, and says no more of a user than is
known of it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from greatmeta_dist.priors.mixture import Floats, Mixture, Moments, inverse
from greatmeta_dist.ragged import Ragged

NUM_FACTORS = 20
NUM_PASSES = 20
"""Passes over the ratings."""
NUM_WARM_UP = 4
"""Passes before items' variances and the noise are estimated: until then factors are too small to
tell."""
NUM_SINGLE = 8
"""Passes in which users have a single normal for a prior, before it is a mixture."""
NUM_STARTS = 4
RATINGS_OF_STARTS = 1_000_000
"""Logs of at most half of these training ratings are factorised from several starts, as often as
these ratings last; what is predicted is the mean, for each ends at another optimum."""
NUM_COMPONENTS = 8
USERS_OF_COMPONENT = 40
"""Of fewer training users for each component there are fewer components."""
MAX_CLUSTERED = 20_000
"""Users whose clusters the components start as."""
MAX_RATINGS = 5_000_000
"""Ratings that are factorised: those of the first training users."""
MAX_ITEMS = 50_000
"""The most rated items, which alone are factorised: each takes some 9 KB of memory."""
ENOUGH_RATINGS = 50
"""Of an item more of whose ratings are not among the factorised ones: with fewer it is left out."""
USERS_AT_A_TIME = 16_384
ITEMS_AT_A_TIME = 4096
LEAST_VARIANCE = 1e-6
"""Of the ratings', so that ratings which follow from something leave no division by zero."""

WIDTH = NUM_FACTORS + 2
"""D, numbers of an item or a user."""
ROW, COLUMN = np.triu_indices(WIDTH)
"""Symmetric matrices [D, D] are kept as these entries."""
IS_SQUARE = ROW == COLUMN


@dataclass(frozen=True)
class BayesianMF:
    """What the ratings say of n items."""

    item: NDArray[np.int64]
    """[n] ascending."""
    mean: Floats
    """[n, D] E[t], t = (d, l, v)."""
    variance: Floats
    """[n, D - 1] variances of (l, v)."""
    with_offset: Floats
    """[n, D - 1] E[d · (l, v)]."""
    noise: float
    """Variance of a rating about what is expected of it."""
    prior: Mixture
    """Of users' (a, z)."""

    def predict(
        self, support: Ragged, rest: Floats, query: Ragged
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """What is expected of every query row, less mⱼ, and whether its item is among the n.

        Where it is not, the number means nothing. ``rest`` holds the support's ratings less mⱼ, row
        by row; those of other items say nothing.
        """
        is_support, support_at = self._places(support.values)
        is_query, query_at = self._places(query.values)
        found = np.zeros(len(query.values))
        linear = np.zeros((len(support.lengths), WIDTH - 1))
        precision = np.zeros((*linear.shape, WIDTH - 1))
        for user in range(len(linear)):
            given = np.arange(*support.offsets[user : user + 2])
            given = given[is_support[given]]
            precision[user], linear[user] = self._told(support_at[given], rest[given])
        expected, _ = self.prior.posterior(precision, linear).expected()
        for user, x in enumerate(expected):
            asked = slice(*query.offsets[user : user + 2])
            of_item = self.mean[query_at[asked]]
            found[asked] = of_item[:, 0] + of_item[:, 1:] @ x
        return found, is_query

    def _told(self, place: NDArray[np.int64], rest: Floats) -> tuple[Floats, Floats]:
        """What a user's ratings, less mⱼ, of the items at these places [rows] say of (a, z).

        A precision and a linear term, as ``Mixture.posterior`` reads them. An item's loadings count
        as uncorrelated: in predictions the difference is below 0.0003 of an RMSE on MovieLens 100K,
        and it saves D² numbers for each item.
        """
        loading = self.mean[place, 1:]
        precision = loading.T @ loading + np.diag(self.variance[place].sum(0))
        linear = loading.T @ rest - self.with_offset[place].sum(0)
        return precision / self.noise, linear / self.noise

    def _places(self, item: NDArray) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        place = np.minimum(np.searchsorted(self.item, item), len(self.item) - 1)
        return self.item[place] == item, place


def num_starts(num_ratings: int) -> int:
    """How many times a log of so many ratings is factorised."""
    return min(NUM_STARTS, max(1, RATINGS_OF_STARTS // max(1, num_ratings)))


def factorise(
    chunks: Callable[[], Iterable[sparse.csr_matrix]],
    item: NDArray[np.int64],
    *,
    seed: tuple[int, int],
) -> BayesianMF:
    """Factorise users' ratings of the items [n], less mⱼ; ``seed`` is of (the log, the start).

    ``chunks`` gives them as matrices [users, n] with an entry for every rating, even 0, in any
    chunks, the same at every call; at least one. Memory grows with n and the largest chunk.
    """
    count, square = 0, 0.0
    for chunk in chunks():
        count, square = count + chunk.nnz, square + float(chunk.data @ chunk.data)
    spread = square / count or 1.0
    unit = np.full(WIDTH, spread)  # of (d, l, v), squared
    unit[1] = 1.0
    noise = 0.8 * spread
    variance = unit * np.concatenate(([0.3, 0.01], np.full(NUM_FACTORS, 0.02)))
    prior = np.zeros(WIDTH)
    prior[1] = 1.0
    mean = np.tile(prior, (len(item), 1))
    random = np.random.default_rng([*seed, 41])
    mean[:, 2:] = random.normal(0, 0.1, (len(item), NUM_FACTORS)) * spread**0.5
    cluster_seed = int(random.integers(1 << 31))
    covariance = np.zeros((len(item), len(ROW)))
    of_users = Mixture.single(_of_user(0.15 * spread))

    for number in range(NUM_PASSES):
        of_items = mean[:, ROW] * mean[:, COLUMN] + covariance
        square_of, said = np.zeros_like(covariance), np.zeros_like(mean)  # Σ E[h hᵀ], Σ r E[h]
        users = _Users(of_users, num_kept=MAX_CLUSTERED if number + 1 == NUM_SINGLE else 0)
        for chunk in _blocks(chunks()):
            ones = np.ones_like(chunk.data)
            is_rated = sparse.csr_matrix((ones, chunk.indices, chunk.indptr), chunk.shape)
            user, of_user = users.fold_in(chunk @ mean, is_rated @ of_items, noise)
            square_of += is_rated.T @ of_user
            said += chunk.T @ user
        turn = _rotation(users.moments, of_items.sum(0))
        said = said @ turn.T
        of_users = users.prior(number, turn, spread=spread, seed=cluster_seed)

        left = square
        for start in range(0, len(item), ITEMS_AT_A_TIME):
            some = slice(start, start + ITEMS_AT_A_TIME)
            seen = turn @ _unpacked(square_of[some]) @ turn.T
            within = inverse(seen / noise + np.diag(1 / variance))
            mean[some] = _times(within, said[some] / noise + prior / variance)
            covariance[some] = within[:, ROW, COLUMN]
            moment = mean[some, :, None] * mean[some, None, :] + within
            left += float((seen * moment).sum() - 2 * (mean[some] * said[some]).sum())
        if number >= NUM_WARM_UP:
            noise = max(left / count, LEAST_VARIANCE * spread)
            about = (mean - prior) ** 2 + covariance[:, IS_SQUARE]
            variance = np.maximum(about.mean(0), LEAST_VARIANCE * unit)
    return BayesianMF(
        item,
        mean,
        covariance[:, IS_SQUARE][:, 1:],
        mean[:, :1] * mean[:, 1:] + covariance[:, 1:WIDTH],
        noise,
        of_users,
    )


def _blocks(chunks: Iterable[sparse.csr_matrix]) -> Iterator[sparse.csr_matrix]:
    for chunk in chunks:
        for start in range(0, chunk.shape[0], USERS_AT_A_TIME):
            yield chunk[start : start + USERS_AT_A_TIME]


class _Users:
    """The users' side of one pass; E[x] is kept of the first ``num_kept`` of them."""

    def __init__(self, prior: Mixture, *, num_kept: int):
        self._prior = prior
        self.moments = Moments.none(prior)
        self._kept: list[Floats] = []
        self._num_more = num_kept

    def fold_in(self, said: Floats, of_items: Floats, noise: float) -> tuple[Floats, Floats]:
        """E[h] [users, D] and E[h hᵀ], packed.

        Given sums over a user's ratings: r E[t], and E[t tᵀ], packed.
        """
        seen = _unpacked(of_items)
        linear = (said[:, 1:] - seen[:, 0, 1:]) / noise
        found = self._prior.posterior(seen[:, 1:, 1:] / noise, linear)
        expected, square = found.expected()
        self.moments = self.moments.plus(found, square)
        if self._num_more:
            self._kept.append(expected[: self._num_more])
            self._num_more -= len(self._kept[-1])
        user = np.hstack([np.ones((len(said), 1)), expected])
        return user, np.hstack([user, square[:, ROW[WIDTH:] - 1, COLUMN[WIDTH:] - 1]])

    def prior(self, number: int, turn: Floats, *, spread: float, seed: int) -> Mixture:
        """What the pass after this one takes users for a priori, turned."""
        moments = self.moments.turned(turn[1:, 1:])
        count = moments.count.sum()
        of_offsets = moments.square[0, 0] / count
        variance = _of_user(max(of_offsets, LEAST_VARIANCE * spread))
        if number + 1 < NUM_SINGLE:
            return Mixture.single(variance)
        if number + 1 > NUM_SINGLE:
            return Mixture.fitted(moments, LEAST_VARIANCE * _of_user(spread))
        kept = np.concatenate(self._kept) @ turn[1:, 1:].T
        components = min(NUM_COMPONENTS, max(1, int(count) // USERS_OF_COMPONENT))
        return Mixture.of_clusters(kept, variance, count=components, seed=seed)


def _rotation(users: Moments, of_items: Floats) -> Floats:
    """[D, D] what to multiply users by, so that E[z zᵀ] is 1 and the sum of E[v vᵀ] diagonal.

    ``of_items`` is the sum of E[t tᵀ], packed. What turns the items is the inverse's transpose, and
    updating them from the turned users does it. What is expected of ratings stays, and the priors
    fit best so (Ilin and Raiko, *Practical approaches to principal component analysis in the
    presence of missing values*, JMLR 2010); passes that go by coordinates alone still depended on
    their start after 30 (docs/findings.md).
    """
    size, axes = np.linalg.eigh(users.square[1:, 1:] / users.count.sum())
    root, back = (axes * size**power @ axes.T for power in (0.5, -0.5))
    _, axes = np.linalg.eigh(root @ _unpacked(of_items[None])[0, 2:, 2:] @ root)
    turn = np.eye(WIDTH)
    turn[2:, 2:] = axes[:, ::-1].T @ back
    return turn


def _of_user(offset: float) -> Floats:
    """[D - 1] variances of a user's offset and factors."""
    return np.concatenate(([offset], np.ones(NUM_FACTORS)))


def _times(matrix: NDArray, vector: Floats) -> Floats:
    product: Floats = (matrix @ vector[:, :, None])[:, :, 0]
    return product


def _unpacked(packed: Floats) -> Floats:
    """Symmetric matrices [n, D, D] from their entries at ``ROW``, ``COLUMN``."""
    full = np.empty((len(packed), WIDTH, WIDTH))
    full[:, ROW, COLUMN] = packed
    full[:, COLUMN, ROW] = packed
    return full
