"""Each user's rows in order of a score, and which of them have the same score.

Shapes: U users; n rows of all users, end to end.
"""

from dataclasses import dataclass

import numpy as np

from greatmeta_dist.evaluation.metrics.base import Ints, Rows


@dataclass(frozen=True)
class SortedRows:
    """All rows, sorted by user and within a user by ascending score."""

    order: Ints
    """[n] index of the row that stands at each position."""
    rank: Ints
    """[n] rank of each sorted row among its user's, from 0; ties are in the rows' order."""
    tie: Ints
    """[n] index of each sorted row's tie: the rows of one user with one score."""

    @classmethod
    def by(cls, score: Rows, user_index: Ints, lengths: Ints) -> "SortedRows":
        """Sort by ``score`` [n]; ``user_index`` [n] ascends, ``lengths`` [U] are rows per user."""
        order = np.lexsort((score, user_index))
        score = score[order]
        # Users keep their rows' positions, so user_index is in order before and after sorting.
        rank = np.arange(len(order)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        starts_tie = np.ones(len(order), bool)
        starts_tie[1:] = (score[1:] != score[:-1]) | (user_index[1:] != user_index[:-1])
        return cls(order, rank, np.cumsum(starts_tie) - 1)

    def mean_over_ties(self, values: Rows | Ints) -> Rows:
        """Each sorted row's value [n] replaced by the mean of its tie."""
        if not len(values):
            return np.empty(0)
        return (np.bincount(self.tie, values) / np.bincount(self.tie))[self.tie]
