"""The same task by ``implicit``: alternating least squares, users folded in, the best k items.

Nothing is trained, for what a recommendation costs depends on sizes alone. The library is optional:
``pip install '.[benchmarks]'``.
"""

import warnings
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from scipy import sparse

from greatmeta_dist.data.tasks import TaskTable


def is_installed() -> bool:
    return find_spec("implicit") is not None


def recommender(
    num_items: int, num_factors: int, *, threads: int
) -> Callable[[TaskTable, int], np.ndarray]:
    """A function that gives users' k best items [U, k], folded in from their known ratings."""
    with warnings.catch_warnings():
        # It asks for one BLAS thread, which the benchmark sets.
        warnings.simplefilter("ignore", RuntimeWarning)
        from implicit.cpu.als import AlternatingLeastSquares

        model = AlternatingLeastSquares(factors=num_factors, num_threads=threads)
    rng = np.random.default_rng(0)
    model.item_factors = 0.1 * rng.standard_normal((num_items, num_factors), np.float32)
    model.user_factors = np.zeros((1, num_factors), np.float32)
    _ = model.YtY  # which it keeps

    def recommend(users: TaskTable, k: int) -> np.ndarray:
        known = sparse.csr_matrix(
            (users.support_label.values, users.support_item.values, users.support_item.offsets),
            shape=(len(users), num_items),
        )
        ids, _ = model.recommend(
            np.arange(len(users)),
            known,
            N=k,
            recalculate_user=True,
            filter_already_liked_items=True,
        )
        items: np.ndarray = ids
        return items

    return recommend
