"""Bayesian matrix factorisation of the training ratings, and how new users are folded in.

r_ij = mⱼ + h_i · t_j + noise, with mⱼ what item j's features lead to expect, h_i = (1, a_i, z_i)
and t_j = (d_j, l_j, v_j): an item's offset d, a user's offset a with a loading l about 1, and
``NUM_FACTORS`` factors. A priori all are normal, z_i of unit variance, the others of variances
that are estimated, so that what the ratings do not bear out comes to nothing. The posterior is
taken as a product over users and items (Lim and Teh, *Variational Bayesian approach to movie
rating prediction*, KDD Cup 2007), each a normal of full covariance: an item of few ratings stays
near its prior, and says no more of a user than is known of it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from greatmeta_dist.tasks.batch import Ragged

Floats = NDArray[np.float64]

NUM_FACTORS = 20
NUM_PASSES = 30
"""Passes over the ratings."""
NUM_WARM_UP = 4
"""Passes before items' variances and the noise are estimated: until then factors are too small to
tell."""
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
class Factorisation:
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
    user_variance: float
    """Variance of users' offsets."""

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
        for user in range(len(support.offsets) - 1):
            given = np.arange(*support.offsets[user : user + 2])
            given = given[is_support[given]]
            asked = slice(*query.offsets[user : user + 2])
            found[asked] = self.mean[query_at[asked]] @ self.fold_in(support_at[given], rest[given])
        return found, is_query

    def fold_in(self, place: NDArray[np.int64], rest: Floats) -> Floats:
        """E[h] [D] of a user, from ratings, less mⱼ, of the items at these places [rows].

        An item's loadings count as uncorrelated: in predictions the difference is below 0.0003 of
        an RMSE on MovieLens 100K, and it saves D² numbers for each item.
        """
        loading = self.mean[place, 1:]
        precision = loading.T @ loading + np.diag(self.variance[place].sum(0))
        precision = precision / self.noise + np.diag(_prior_precision(self.user_variance))
        said = (loading.T @ rest - self.with_offset[place].sum(0)) / self.noise
        return np.concatenate(([1.0], np.linalg.solve(precision, said)))

    def _places(self, item: NDArray) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        place = np.minimum(np.searchsorted(self.item, item), len(self.item) - 1)
        return self.item[place] == item, place


def factorise(
    portions: Callable[[], Iterable[sparse.csr_matrix]], item: NDArray[np.int64], *, seed: int
) -> Factorisation:
    """Factorise users' ratings of the items [n], less mⱼ.

    ``portions`` gives them as matrices [users, n] with an entry for every rating, even 0, in any
    portions, the same at every call; at least one. Memory grows with n and the largest portion.
    """
    count, square = 0, 0.0
    for portion in portions():
        count, square = count + portion.nnz, square + float(portion.data @ portion.data)
    spread = square / count or 1.0
    unit = np.full(WIDTH, spread)  # of (d, l, v), squared
    unit[1] = 1.0
    noise, user_variance = 0.8 * spread, 0.15 * spread
    variance = unit * np.concatenate(([0.3, 0.01], np.full(NUM_FACTORS, 0.02)))
    prior = np.zeros(WIDTH)
    prior[1] = 1.0
    mean = np.tile(prior, (len(item), 1))
    random = np.random.default_rng([seed, 41]).normal(0, 0.1, (len(item), NUM_FACTORS))
    mean[:, 2:] = random * spread**0.5
    covariance = np.zeros((len(item), len(ROW)))

    for number in range(NUM_PASSES):
        of_items = mean[:, ROW] * mean[:, COLUMN] + covariance
        of_users, said = np.zeros_like(covariance), np.zeros_like(mean)  # Σ E[h hᵀ], Σ r E[h]
        num_users, of_all = 0, np.zeros(len(ROW))
        for portion in _blocks(portions()):
            ones = np.ones_like(portion.data)
            is_rated = sparse.csr_matrix((ones, portion.indices, portion.indptr), portion.shape)
            user, of_user = _fold_in_all(portion @ mean, is_rated @ of_items, noise, user_variance)
            of_users += is_rated.T @ of_user
            said += portion.T @ user
            num_users += len(user)
            of_all += of_user.sum(0)
        of_all /= num_users
        user_variance = max(float(of_all[WIDTH]), LEAST_VARIANCE * spread)
        turn = _turn(of_all, of_items.sum(0))
        said = said @ turn.T

        left = square
        for start in range(0, len(item), ITEMS_AT_A_TIME):
            some = slice(start, start + ITEMS_AT_A_TIME)
            seen = turn @ _unpacked(of_users[some]) @ turn.T
            found = np.linalg.inv(seen / noise + np.diag(1 / variance))
            mean[some] = _times(found, said[some] / noise + prior / variance)
            covariance[some] = found[:, ROW, COLUMN]
            moment = mean[some, :, None] * mean[some, None, :] + found
            left += float((seen * moment).sum() - 2 * (mean[some] * said[some]).sum())
        if number >= NUM_WARM_UP:
            noise = max(left / count, LEAST_VARIANCE * spread)
            square_of = (mean - prior) ** 2 + covariance[:, IS_SQUARE]
            variance = np.maximum(square_of.mean(0), LEAST_VARIANCE * unit)
    return Factorisation(
        item,
        mean,
        covariance[:, IS_SQUARE][:, 1:],
        mean[:, :1] * mean[:, 1:] + covariance[:, 1:WIDTH],
        noise,
        user_variance,
    )


def _blocks(portions: Iterable[sparse.csr_matrix]) -> Iterator[sparse.csr_matrix]:
    for portion in portions:
        for start in range(0, portion.shape[0], USERS_AT_A_TIME):
            yield portion[start : start + USERS_AT_A_TIME]


def _fold_in_all(
    said: Floats, of_items: Floats, noise: float, user_variance: float
) -> tuple[Floats, Floats]:
    """E[h] [users, D] and E[h hᵀ], packed, from sums over a user's ratings, r E[t] and E[t tᵀ]."""
    seen = _unpacked(of_items)
    precision = seen[:, 1:, 1:] / noise + np.diag(_prior_precision(user_variance))
    covariance = np.linalg.inv(precision)
    user = np.ones((len(said), WIDTH))
    user[:, 1:] = _times(covariance, (said[:, 1:] - seen[:, 0, 1:]) / noise)
    of_user = user[:, ROW] * user[:, COLUMN]
    of_user[:, WIDTH:] += covariance[:, ROW[WIDTH:] - 1, COLUMN[WIDTH:] - 1]
    return user, of_user


def _turn(of_users: Floats, of_items: Floats) -> Floats:
    """[D, D] what to multiply users by, so that E[z zᵀ] is 1 and the sum of E[v vᵀ] diagonal.

    Given, packed: the mean of E[h hᵀ] over users, the sum of E[t tᵀ] over items; what turns the
    items is the inverse's transpose, and updating them from the turned users does it. What is
    expected of ratings stays, and the priors fit best so (Ilin and Raiko, *Practical approaches to
    principal component analysis in the presence of missing values*, JMLR 2010); passes that go by
    coordinates alone still depended on their start after 30 (docs/findings.md).
    """
    users, items = (_unpacked(p[None])[0, 2:, 2:] for p in (of_users, of_items))
    size, axes = np.linalg.eigh(users)
    root, inverse = (axes * size**power @ axes.T for power in (0.5, -0.5))
    _, axes = np.linalg.eigh(root @ items @ root)
    turn = np.eye(WIDTH)
    turn[2:, 2:] = axes[:, ::-1].T @ inverse
    return turn


def _prior_precision(user_variance: float) -> Floats:
    """[D - 1] of a user's offset and factors."""
    return np.concatenate(([1 / user_variance], np.ones(NUM_FACTORS)))


def _times(matrix: NDArray, vector: Floats) -> Floats:
    product: Floats = (matrix @ vector[:, :, None])[:, :, 0]
    return product


def _unpacked(packed: Floats) -> Floats:
    """Symmetric matrices [n, D, D] from their entries at ``ROW``, ``COLUMN``."""
    full = np.empty((len(packed), WIDTH, WIDTH))
    full[:, ROW, COLUMN] = packed
    full[:, COLUMN, ROW] = packed
    return full
