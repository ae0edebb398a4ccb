"""Factors of what items and users leave of the training ratings: where items' own rows start."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

NUM_FACTORS = 48
NUM_SPARE = 16
"""Directions carried along beyond the factors, so that these converge."""
NUM_PASSES = 6
"""Passes over the ratings."""
PRIOR_RATINGS = 10.0
"""Ratings' worth of prior of an item's factors: one of few ratings has small ones."""
MAX_ITEMS = 1_000_000
"""The most rated items, which alone have factors."""
MAX_RATINGS = 20_000_000
"""Ratings that factors are made of: those of the first training users."""


def item_factors(
    chunks: Callable[[], Iterable[sparse.csr_matrix]], count: NDArray[np.int64], *, seed: int
) -> NDArray[np.float32]:
    """Factors F of the items, F Fᵀ about proportional to the covariance of their residuals.

    ``chunks`` gives users' residuals [users, items], 0 where unrated, in any chunks, the same
    at every call; ``count`` [items] says how many each item has. Returns [items,
    ``NUM_FACTORS``], strongest first; rows' squared lengths have mean 1 over ratings, or are 0
    where ratings have nothing in common.

    With R the residuals over the root of their item's ratings and prior: the leading eigenvectors
    of RᵀR by randomised subspace iteration (Halko, Martinsson and Tropp, *Finding structure with
    randomness*, 2011, algorithm 4.4), on chunks, so that memory does not grow with the log.
    Eigenvalues are taken less the first one left out, the level of the noise.
    """
    scale = (1 / np.sqrt(count + PRIOR_RATINGS)).astype(np.float32)[:, None]
    width = min(NUM_FACTORS + NUM_SPARE, len(count))
    start = np.random.default_rng([seed, 37]).normal(size=(len(count), width))
    basis = np.linalg.qr(start)[0].astype(np.float32)
    for last in (False,) * (NUM_PASSES - 1) + (True,):
        image, of_residuals = np.zeros_like(basis), scale * basis
        for chunk in chunks():
            image += chunk.T @ (chunk @ of_residuals)
        image *= scale
        if not last:
            basis = np.linalg.qr(image)[0]
    values, within = np.linalg.eigh((basis.T @ image).astype(np.float64))
    values, vectors = values[::-1], basis @ within[:, ::-1]
    noise = values[NUM_FACTORS] if width > NUM_FACTORS else 0.0
    strength = np.sqrt(np.maximum(values[:NUM_FACTORS] - noise, 0))
    found = np.zeros((len(count), NUM_FACTORS))
    found[:, : len(strength)] = vectors[:, : len(strength)] * strength
    found *= np.where(found[np.abs(found).argmax(0), np.arange(NUM_FACTORS)] < 0, -1, 1)
    size = float(count @ (found**2).sum(1)) / max(int(count.sum()), 1)
    return (found / (np.sqrt(size) or 1.0)).astype(np.float32)
