"""How far the mean of a few ratings can be trusted, estimated from the ratings themselves."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.config.priors import BiasConfig


@dataclass
class VarianceComponents:
    """Variance within and between groups of rows; groups differ in size and are added in chunks.

    The analysis-of-variance estimates of a one-way random-effects model (Searle, Casella and
    McCulloch, *Variance Components*, 1992, section 3.6).
    """

    num_groups: int = 0
    num_rows: float = 0.0
    squared_rows: float = 0.0
    """Σ over groups of (rows of the group)²."""
    total: float = 0.0
    within: float = 0.0
    """Sum of squares of rows about their group's mean."""
    of_means: float = 0.0
    """Σ over groups of (sum of the group)² / (rows of the group)."""

    def add(self, count: NDArray, total: NDArray, squares: NDArray) -> None:
        """Add groups: the number of rows of each, their sum and sum of squares, [groups] each."""
        is_seen = count > 0
        count, total, squares = count[is_seen].astype(np.float64), total[is_seen], squares[is_seen]
        self.num_groups += len(count)
        self.num_rows += float(count.sum())
        self.squared_rows += float((count**2).sum())
        self.total += float(total.sum())
        of_means = float((total**2 / count).sum())
        self.of_means += of_means
        self.within += float(squares.sum()) - of_means

    def damping(self, options: BiasConfig) -> float:
        """Rows' worth of prior that makes a group's shrunk mean the best linear predictor.

        It is the variance within groups over the variance between them, within the options' bounds;
        the upper bound where rows cannot tell, as where no group has two.
        """
        within, between = self.within_groups(), self.between_groups()
        if between is None or between <= within / options.max_damping:
            return options.max_damping
        return max(within / between, options.min_damping)

    def within_groups(self) -> float:
        """Variance of rows about their group's mean; 0 where no group has two rows."""
        if self.num_rows <= self.num_groups:
            return 0.0
        return max(self.within, 0.0) / (self.num_rows - self.num_groups)

    def between_groups(self) -> float | None:
        """Variance of groups' means, maybe negative; None where rows cannot tell."""
        if self.num_rows <= self.num_groups or self.num_groups < 2:
            return None
        within = self.within_groups()
        between = self.of_means - self.total**2 / self.num_rows - (self.num_groups - 1) * within
        return between / (self.num_rows - self.squared_rows / self.num_rows)
