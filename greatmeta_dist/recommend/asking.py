"""Tasks that ask for other items than they have in their query sets. Shapes: U users."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.data.tasks import Features, TaskTable
from greatmeta_dist.ragged import Ragged


def asking(tasks: TaskTable, items: NDArray[np.int64]) -> TaskTable:
    """The same users, each asked about its row of ``items`` [U, n]."""
    offsets = np.arange(len(tasks) + 1) * items.shape[1]
    return replace(
        tasks,
        query_item=Ragged(items.ravel().astype(np.int32), offsets),
        query_label=Ragged(np.zeros(items.size, np.float32), offsets),
    )


def asking_nobody(items: NDArray[np.int64]) -> TaskTable:
    """One user of whom nothing is known, not even features, asked about ``items`` [n].

    Good for what a user's features have no part in, such as prior means.
    """
    nothing = Ragged(np.empty(0, np.int32), np.zeros(2, np.int64))
    ratings = Ragged(np.empty(0, np.float32), nothing.offsets)
    nobody = TaskTable(Features((), (), ()), nothing, ratings, nothing, ratings)
    return asking(nobody, items[None])
