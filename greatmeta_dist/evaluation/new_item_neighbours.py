"""Item neighbours of new items: a baseline that knows what the supports say of them.

A new item is like an item of the training as far as the residuals of the users who rated both are.
A residual is what the bias model leaves of a rating.

Shapes: I items of the catalogue, J new items that are rated, U users of a batch.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.evaluation.rated_new_items import Tables

DAMPING = 20.0
"""Users' worth of prior, at 0, of a correlation."""
PRIOR_WEIGHT = 0.3
"""Weight of a prior of 0 in a mean over neighbours."""
MAX_PAIRS = 20_000_000
"""New items times items, at most: so many numbers are kept, four times."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NewItemNeighbours:
    """Similarity-weighted means over the items that a user rated."""

    transform: TargetTransform
    """Of kind ``bias``; knows the new items' offsets."""
    item: NDArray[np.int64]
    """[J] ascending."""
    similarity: Floats
    """[J, I] shrunk correlations; 0 with new items."""

    @classmethod
    def fit(
        cls, transform: TargetTransform, item: NDArray[np.int64], tables: Tables
    ) -> Self | None:
        """From the users' supports; None where there are too many items, or none that is rated."""
        num_items = len(transform.bias.item_count)
        shape = (len(item), num_items)
        if not 0 < len(item) * num_items <= MAX_PAIRS:
            return None
        product, both, of_new, of_old = (np.zeros(shape) for _ in range(4))
        for tasks in tables():
            residual = _residuals(transform, tasks)
            rated = _pattern(residual)
            new, new_rated = residual[:, item].T, rated[:, item].T
            product += (new @ residual).toarray()
            both += (new_rated @ rated).toarray()
            of_new += (new.multiply(new) @ rated).toarray()
            of_old += (new_rated @ residual.multiply(residual)).toarray()
        scale = np.sqrt(of_new * of_old)
        cosine = np.divide(product, scale, out=np.zeros(shape), where=scale > 0)
        similarity = cosine * both / (both + DAMPING)
        similarity[:, transform.bias.item_count == 0] = 0
        return cls(transform, item, similarity)

    def predict(self, tasks: TaskTable) -> Floats:
        """Predicted rating of every query row; the bias model's where an item is not among J."""
        query, transform = tasks.query_item, self.transform
        _, prior_mean = transform.prior_means(tasks, is_training=False)
        residual = _residuals(transform, tasks)
        total = residual @ self.similarity.T
        weight = _pattern(residual) @ np.abs(self.similarity).T
        of_item = total / (weight + PRIOR_WEIGHT)
        user = np.repeat(np.arange(len(tasks)), query.lengths)
        at = np.minimum(np.searchsorted(self.item, query.values), len(self.item) - 1)
        is_new = self.item[at] == query.values
        return transform.in_range(prior_mean + np.where(is_new, of_item[user, at], 0.0))


def _residuals(transform: TargetTransform, tasks: TaskTable) -> sparse.csr_matrix:
    """[U, I] what the bias model leaves of the known ratings."""
    support_mean, _ = transform.prior_means(tasks, is_training=False)
    value = tasks.support_label.values - support_mean
    support = tasks.support_item
    shape = (len(tasks), len(transform.bias.item_count))
    return sparse.csr_matrix((value, support.values, support.offsets - support.offsets[0]), shape)


def _pattern(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """1 where the matrix has an entry."""
    return sparse.csr_matrix(
        (np.ones(len(matrix.data)), matrix.indices, matrix.indptr), matrix.shape
    )
