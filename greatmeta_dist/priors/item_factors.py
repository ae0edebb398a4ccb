"""Item factors: where items' own embedding rows start.

They are the leading factors of what the bias model leaves of the training ratings.

Shapes: I items that have factors, k factors.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from greatmeta_dist.config.priors import ItemFactorsConfig, PriorsConfig
from greatmeta_dist.priors.base import (
    Prior,
    Progress,
    State,
    TrainingRows,
    most_rated,
    ratings_per_item,
)


class ItemFactorsPrior(Prior):
    """Factors of the most rated items."""

    def __init__(self, item: NDArray[np.int64], factors: NDArray[np.float32]):
        self.item = item
        """[I] ascending."""
        self.factors = factors
        """[I, k]"""

    @classmethod
    def fit(
        cls,
        rows: TrainingRows,
        options: PriorsConfig,
        *,
        fitted: Mapping[str, Any],
        progress: Progress,
    ) -> Self:
        section = options.item_factors
        bias, num_items = fitted["bias"].model, rows.num_items
        progress("item factors", 0)
        residuals = [
            chunk.matrix(bias.training_residuals(chunk).astype(np.float32), num_items)
            for chunk in rows.first_users(max_ratings=section.max_ratings)
        ]
        count = ratings_per_item(residuals, num_items)
        item = most_rated(count, section.max_items)
        if len(item) < num_items:
            residuals = [matrix[:, item] for matrix in residuals]
        num_passes = 0

        def chunks() -> list[sparse.csr_matrix]:
            nonlocal num_passes
            progress("item factors", num_passes / section.num_passes)
            num_passes += 1
            return residuals

        return cls(item, item_factors(chunks, count[item], options=section, seed=options.seed))

    def state(self) -> State:
        return {"item": self.item, "factors": self.factors}, {}

    @classmethod
    def from_state(
        cls, arrays: dict[str, NDArray], details: dict[str, Any], *, fitted: Mapping[str, Any]
    ) -> Self:
        return cls(arrays["item"], arrays["factors"])


def item_factors(
    chunks: Callable[[], Iterable[sparse.csr_matrix]],
    count: NDArray[np.int64],
    *,
    options: ItemFactorsConfig,
    seed: int,
) -> NDArray[np.float32]:
    """Factors F [I, k] of items, F Fᵀ about proportional to the covariance of their residuals.

    ``chunks`` gives users' residuals [users, I], 0 where unrated, in chunks that are the same at
    every call. ``count`` [I] is the number of ratings of each item. Factors stand strongest first.
    The squared lengths of F's rows have mean 1 over ratings; all are 0 where items have nothing in
    common.

    With R the residuals over √(their item's ratings + damping), the leading eigenvectors of RᵀR are
    found by randomised subspace iteration (Halko, Martinsson and Tropp, *Finding structure with
    randomness*, 2011, algorithm 4.4). R is read chunk by chunk, so that memory does not grow with
    the log.
    """
    num_factors = options.num_factors
    scale = (1 / np.sqrt(count + options.damping)).astype(np.float32)[:, None]
    width = min(num_factors + options.num_spare, len(count))
    start = np.random.default_rng([seed, 37]).normal(size=(len(count), width))
    basis = np.linalg.qr(start)[0].astype(np.float32)
    for is_last in (False,) * (options.num_passes - 1) + (True,):
        image, scaled_basis = np.zeros_like(basis), scale * basis
        # RᵀR times the basis, chunk by chunk: RᵀR itself would be [I, I].
        for chunk in chunks():
            image += chunk.T @ (chunk @ scaled_basis)
        image *= scale
        if not is_last:
            basis = np.linalg.qr(image)[0]
    # The eigenvalues of RᵀR within the basis, from the last image, which was not orthogonalised.
    values, within = np.linalg.eigh((basis.T @ image).astype(np.float64))
    values, vectors = values[::-1], basis @ within[:, ::-1]
    # Noise adds about the same to every eigenvalue. The first one left out is taken for it.
    noise = values[num_factors] if width > num_factors else 0.0
    strength = np.sqrt(np.maximum(values[:num_factors] - noise, 0))
    factors = np.zeros((len(count), num_factors))
    factors[:, : len(strength)] = vectors[:, : len(strength)] * strength
    # An eigenvector's sign is arbitrary: the entry of largest size is made positive.
    largest = factors[np.abs(factors).argmax(0), np.arange(num_factors)]
    factors *= np.where(largest < 0, -1, 1)
    mean_square = float(count @ (factors**2).sum(1)) / max(int(count.sum()), 1)
    return (factors / (np.sqrt(mean_square) or 1.0)).astype(np.float32)
