"""What every prior is given, and what it must offer.

A *prior* is something fitted on the training rows before meta-training starts: biases, item
factors, a Bayesian matrix factorisation, user groups. Arrays go in and arrays come out, so that a
prior can be saved beside the store, copied into a run, and loaded where there is no store.

Shapes in this package: I items of the catalogue, U users of a chunk, n rows (ratings) of a chunk.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from greatmeta_dist.config.priors import PriorsConfig
from greatmeta_dist.ragged import Ragged, offsets_of

Progress = Callable[[str, float], None]
"""Told what is being fitted, and the fraction of it that is done, 0 to 1."""


@dataclass(frozen=True)
class UserRows:
    """Ratings of some users, user by user."""

    item: Ragged
    """U lists, n values in all: the items that each user rated."""
    rating: NDArray[np.float64]
    """[n] in the order of ``item.values``."""

    def __len__(self) -> int:
        return len(self.item.offsets) - 1

    @property
    def user(self) -> NDArray[np.int64]:
        """[n] the user of each row, 0 to U − 1."""
        return np.repeat(np.arange(len(self)), self.item.lengths)

    def where(self, is_kept: NDArray[np.bool_]) -> "UserRows":
        """The rows where ``is_kept`` [n]; a user who keeps none stays, with an empty list."""
        lengths = np.bincount(self.user[is_kept], minlength=len(self))
        return UserRows(
            Ragged(self.item.values[is_kept], offsets_of(lengths)), self.rating[is_kept]
        )

    def matrix(self, values: NDArray, num_items: int) -> sparse.csr_matrix:
        """Values [n] of the rows as a matrix [U, I].

        Every row has an entry, even where its value is 0: a rating that is just as expected is a
        rating.
        """
        return sparse.csr_matrix(
            (values, self.item.values, self.item.offsets), shape=(len(self), num_items)
        )


@dataclass(frozen=True)
class ItemFeature:
    """One feature of every item."""

    name: str
    values: list[str]
    """Distinct values that training has seen, most frequent first."""
    is_list: bool
    codes: Ragged
    """I lists: which of ``values`` each item has. ``len(values)`` is any other value, or none."""
    num_frequent: int
    """How many values have an embedding row of their own: the first ones."""
    number: NDArray[np.float64] | None
    """[I] the value as a number, nan where it is unknown; None where values have no order."""

    def take(self, items: NDArray[np.int64]) -> "ItemFeature":
        """The feature of some of the items."""
        number = None if self.number is None else self.number[items]
        return replace(self, codes=self.codes.take(items), number=number)


@dataclass(frozen=True)
class TrainingRows:
    """The ratings of the training users, and what is known of the items."""

    item_count: NDArray[np.int64]
    """[I] number of training ratings of each item."""
    item_sum: NDArray[np.float64]
    """[I] their sum."""
    item_squares: NDArray[np.float64]
    """[I] the sum of their squares."""
    features: list[ItemFeature]
    is_implicit: bool
    """Whether rows of rating 0 were drawn: nobody chose them."""
    chunks: Callable[[], Iterable[UserRows]]
    """All rows of all training users, in chunks; the same chunks at every call."""

    @property
    def num_items(self) -> int:
        return len(self.item_count)

    @property
    def num_ratings(self) -> int:
        return int(self.item_count.sum())

    @property
    def mean(self) -> float:
        """Mean training rating."""
        return float(self.item_sum.sum()) / self.num_ratings

    def first_users(self, *, max_ratings: int) -> Iterator[UserRows]:
        """The first chunks, until they hold ``max_ratings``: so a fit's time is bounded."""
        num_ratings = 0
        for chunk in self.chunks():
            yield chunk
            num_ratings += len(chunk.rating)
            if num_ratings >= max_ratings:
                return


State = tuple[dict[str, NDArray], dict[str, Any]]
"""What is saved of a prior: arrays by name, and what JSON can hold."""


class Prior(ABC):
    """Something fitted on training rows.

    Register it in ``extensions.PRIORS``, or by another package's entry point, and let the option
    ``priors.extra`` name it.

    One that predicts ratings is a ``RatingPrior``: its predictions are blended with the model's.
    """

    version: ClassVar[int] = 1
    """Raise it whenever the same options and rows give other numbers: cached fits are then not
    taken."""

    @classmethod
    @abstractmethod
    def fit(
        cls,
        rows: TrainingRows,
        options: PriorsConfig,
        *,
        fitted: Mapping[str, Any],
        progress: Progress,
    ) -> Self:
        """Fit to the training rows; ``fitted`` holds the priors that come before, by name.

        The same arguments must give the same bits, whatever the number of threads.
        """

    @abstractmethod
    def state(self) -> State:
        """What ``from_state`` needs."""

    @classmethod
    @abstractmethod
    def from_state(
        cls, arrays: dict[str, NDArray], details: dict[str, Any], *, fitted: Mapping[str, Any]
    ) -> Self:
        """The inverse of ``state``; ``fitted`` holds the priors that come before, by name."""


class RatingPrior(Prior):
    """A prior that predicts ratings by itself; predictions are blended with the model's."""

    @abstractmethod
    def predict_residual(
        self, support: Ragged, residual: NDArray[np.float64], query: Ragged
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predict the query rows' ratings less the content means of their items.

        ``support`` and ``query`` hold U lists of items. ``residual`` [support rows] is each known
        rating less the content mean of its item. Returns, for every query row, the predicted
        residual, and how well the prior knows the item, from 0 (not at all: the residual means
        nothing) to 1. (False and True will do.)
        """

    def item_vectors(self, num_items: int) -> "ItemVectors | None":
        """What makes this prior's predictions inner products; None where they are none.

        A prior that is an inner product of a user's and an item's numbers scores a catalogue by one
        matrix product. Of another, every item is asked for. One that gives them has
        ``user_vectors`` and ``predict_with``, too.
        """
        return None

    def user_vectors(self, support: Ragged, residual: NDArray[np.float64]) -> NDArray[np.float64]:
        """[U, F] users' numbers, which go with ``item_vectors``."""
        raise NotImplementedError

    def predict_with(
        self, users: NDArray[np.float64], query: Ragged
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As ``predict_residual``, from ``user_vectors`` [U, F] that are there already."""
        raise NotImplementedError


@dataclass(frozen=True)
class ItemVectors:
    """The items of a prior whose predictions are constant_j + vector_j · user vector."""

    constant: NDArray[np.float64]
    """[I]"""
    vector: NDArray[np.float64]
    """[I, F]"""
    known: NDArray[np.float64]
    """[I] how well the prior knows the item, 0 to 1; at 0 its numbers are zeros."""


def ratings_per_item(matrices: Iterable[sparse.csr_matrix], num_items: int) -> NDArray[np.int64]:
    """[I] entries of each column of the matrices [U, I] together."""
    count = np.zeros(num_items, np.int64)
    for matrix in matrices:
        count += np.bincount(matrix.indices, minlength=num_items)
    return count


def most_rated(count: NDArray[np.int64], max_items: int) -> NDArray[np.int64]:
    """The items with the most ratings, at most ``max_items``; ascending. ``count`` is [I]."""
    order = np.argsort(-count, kind="stable")[:max_items]
    return np.sort(order[count[order] > 0])
