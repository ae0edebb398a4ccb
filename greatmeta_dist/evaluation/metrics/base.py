"""What a metric is, and the metrics of many users at once.

A metric is one file and one line that registers it: in ``extensions.METRICS`` for a built-in one,
in an entry point for another package's:

    [project.entry-points."greatmeta_dist.metrics"]
    reciprocal_rank = "my_package.reciprocal_rank:ReciprocalRank"

Each metric turns a user's predictions into a few numbers, the user's columns. The columns of any
set of users, such as a preference group, are summarised without the predictions.

Shapes: U users; n query rows of all users, end to end.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.errors import require
from greatmeta_dist.extensions import METRICS

Rows = NDArray[np.float64]
Ints = NDArray[np.int64]
NOTHING_TO_RANK = "nothing to rank"
Columns = dict[str, NDArray[Any]]
"""By name, one number or one row of numbers per user: [U] or [U, ·]."""


@dataclass(frozen=True)
class PredictedRows:
    """Users' query rows, what was predicted for them, and what their ratings mean."""

    rating: Rows
    """[n] ratings, or 0 and 1 where clicks are predicted."""
    prediction: Rows
    """[n] predicted ratings, or chances of a click."""
    lengths: Ints
    """[U] number of query rows of each user; 0 is possible."""
    lowest: float
    """The lowest rating that the data allow."""
    is_click: bool

    @cached_property
    def user_index(self) -> Ints:
        """[n] index of each row's user, ascending."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def gain(self) -> Rows:
        """[n] what it is worth to put a row first: 0 or more.

        Of clicks 0 and 1. Of ratings 1 for the lowest that the data allow, and 1 more for each unit
        above it: of 1 to 5 stars the stars, and of 0 to 4 as much.
        """
        return self.rating if self.is_click else np.maximum(self.rating - self.lowest + 1, 0)

    @cached_property
    def is_ranked(self) -> NDArray[np.bool_]:
        """[U] whether a user has something to rank: rows that are not all as good.

        Without, every order is as good as any other: no row or one, no click, clicks alone, or one
        rating alone.
        """
        first = np.minimum(np.cumsum(self.lengths) - self.lengths, max(len(self.rating) - 1, 0))
        differs = self.rating != self.rating[first][self.user_index] if len(self.rating) else []
        return np.bincount(self.user_index, differs, len(self.lengths)) > 0

    def sum_by_user(self, values: Rows) -> Rows:
        """Sums [U] over each user's rows of values [n]; 0 for a user without rows."""
        sums = np.bincount(self.user_index, values, len(self.lengths))
        return sums.astype(np.float64)  # bincount of no rows gives integers


class Metric(ABC):
    """One way to judge predictions.

    All the numbers of a metric are named after it, as registered: ``rmse``, or ``ndcg@5`` with
    what comes after ``@`` left to the metric.
    """

    is_higher_better: ClassVar[bool]
    decimals: ClassVar[int] = 3
    """How many decimals people are shown."""
    left_out: ClassVar[str] = "no value"
    """What a user has, or lacks, who counts in none of the metric's numbers."""

    def applies(self, rows: PredictedRows) -> bool:
        """Whether the metric means anything for such data. It must not depend on the users."""
        return True

    @abstractmethod
    def by_user(self, rows: PredictedRows) -> Columns:
        """The columns from which ``summarise`` makes numbers; users in the order of the rows."""

    def summarise(self, columns: Columns) -> dict[str, float]:
        """Numbers by name, from the columns of any users.

        Unless overridden, a number is the mean of the column of its name [U] over the users who
        are not nan there. A number that no user has a value for is omitted.
        """
        known = {name: values[~np.isnan(values)] for name, values in columns.items()}
        return {name: float(values.mean()) for name, values in known.items() if len(values)}

    def count_users(self, columns: Columns) -> dict[str, int]:
        """How many users each number is of, from the columns of any users.

        Override it wherever ``summarise`` is overridden. A number of no user is undefined.
        """
        by_name = {name: values for name, values in columns.items() if values.ndim == 1}
        return {name: int((~np.isnan(values)).sum()) for name, values in by_name.items()}

    def user_values(self, columns: Columns) -> dict[str, Rows]:
        """Each user's own value of each number [U], from the columns; nan for one left out.

        Override it wherever ``summarise`` is overridden. Tests and the worst users are told by it.
        """
        return {name: values for name, values in columns.items() if values.ndim == 1}


@cache
def registered_metrics() -> dict[str, Metric]:
    """Every registered metric by name, in the order in which people see them.

    Kept for the life of the process, because listing installed packages is slow.
    """
    return {name: METRICS.get(name)() for name in METRICS.names()}


class Summarised(Protocol):
    """What is known of U users, from which any set of them can be summarised."""

    def summary(self, chosen: NDArray[np.bool_] | None = None) -> dict[str, float]:
        """Numbers by name over the users with ``chosen`` [U] true, or over all."""

    def counted(self, chosen: NDArray[np.bool_] | None = None) -> dict[str, int]:
        """How many of these users each number is of; also those that are undefined."""

    def left_out(self, number: str) -> str:
        """What a user has, or lacks, whom a number is not of."""


@dataclass(frozen=True)
class UserMetrics:
    """The columns of U users by metric; any set of these users can be summarised."""

    columns: dict[str, Columns]

    def summary(self, chosen: NDArray[np.bool_] | None = None) -> dict[str, float]:
        """Numbers by name over the users with ``chosen`` [U] true, or over all.

        Raises ``InputError`` where a metric's numbers are not named after it.
        """
        numbers: dict[str, float] = {}
        for name, columns in self._of(chosen):
            of_metric = registered_metrics()[name].summarise(columns)
            for number in of_metric:
                require(
                    metric_of(number) == name,
                    f"metric '{name}' gave a number called '{number}'; "
                    f"call it '{name}', or '{name}@' and what tells it from the others",
                )
            numbers |= of_metric
        return numbers

    def counted(self, chosen: NDArray[np.bool_] | None = None) -> dict[str, int]:
        """How many of the users of ``summary`` each number is of; also those that are undefined."""
        counts: dict[str, int] = {}
        for name, columns in self._of(chosen):
            of_metric = registered_metrics()[name].count_users(columns)
            counts |= {number: n for number, n in of_metric.items() if metric_of(number) == name}
        return counts

    def left_out(self, number: str) -> str:
        """What a user has, or lacks, whom a number is not of."""
        return registered_metrics()[metric_of(number)].left_out

    def by_user(self) -> dict[str, Rows]:
        """Every user's own value of each number of ``summary`` [U]; nan for one left out."""
        values: dict[str, Rows] = {}
        for name, columns in self.columns.items():
            of_metric = registered_metrics()[name].user_values(columns)
            values |= {number: v for number, v in of_metric.items() if metric_of(number) == name}
        return values

    def of(self, metric: str, chosen: NDArray[np.bool_]) -> dict[str, float]:
        """One metric's numbers over the users with ``chosen`` [U] true."""
        columns = {name: values[chosen] for name, values in self.columns[metric].items()}
        return registered_metrics()[metric].summarise(columns)

    def _of(self, chosen: NDArray[np.bool_] | None) -> Iterator[tuple[str, Columns]]:
        """Each metric's name, and the columns of the chosen users, or of all."""
        for name, columns in self.columns.items():
            if chosen is not None:
                columns = {column: values[chosen] for column, values in columns.items()}
            yield name, columns


def metric_of(number: str) -> str:
    """The name of the metric that a number such as ``ndcg@5`` belongs to."""
    return number.partition("@")[0]


def measure(
    rating: Rows, prediction: Rows, lengths: Ints, *, lowest: float, is_click: bool = False
) -> UserMetrics:
    """Every registered metric that applies, of U users; the arguments as in ``PredictedRows``."""
    return measure_rows(PredictedRows(rating, prediction, lengths, lowest, is_click))


def measure_rows(rows: PredictedRows) -> UserMetrics:
    """Every registered metric that applies to users' query rows."""
    metrics = registered_metrics().items()
    return UserMetrics({name: m.by_user(rows) for name, m in metrics if m.applies(rows)})


def join(batches: Sequence[UserMetrics]) -> UserMetrics:
    """The users of all batches, in order; every batch was measured by the same metrics."""
    return UserMetrics(
        {
            metric: {
                name: np.concatenate([batch.columns[metric][name] for batch in batches])
                for name in columns
            }
            for metric, columns in batches[0].columns.items()
        }
    )
