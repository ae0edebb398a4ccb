"""Lists of unequal length as one array and offsets (CSR), and grouping of integers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Ragged:
    """Lists of unequal length end to end: row i is ``values[offsets[i] : offsets[i + 1]]``."""

    values: NDArray
    offsets: Ints

    @cached_property
    def lengths(self) -> Ints:
        return self.offsets[1:] - self.offsets[:-1]

    def positions(self, rows: Ints) -> tuple[Ints, Ints]:
        """Where the chosen rows' values stand, end to end, and each row's length."""
        lengths = self.lengths[rows]
        ends = lengths.cumsum()
        shift = self.offsets[rows] - ends + lengths
        return shift.repeat(lengths) + np.arange(ends[-1] if len(ends) else 0), lengths

    def take(self, rows: Ints) -> "Ragged":
        at, lengths = self.positions(rows)
        return Ragged(self.values[at], offsets_of(lengths))


def concatenate(parts: Sequence[Ragged]) -> Ragged:
    """All lists of all parts, one part after the other."""
    lengths = np.concatenate([part.lengths for part in parts])
    return Ragged(np.concatenate([part.values for part in parts]), offsets_of(lengths))


def join_lists(left: Ragged, right: Ragged) -> Ragged:
    """As many lists, each the left one's values and then the right one's."""
    lengths = left.lengths + right.lengths
    offsets = offsets_of(lengths)
    values = np.empty(offsets[-1], left.values.dtype)
    is_left = np.zeros(len(values), bool)
    owner = np.repeat(offsets[:-1] - left.offsets[:-1] + left.offsets[0], left.lengths)
    is_left[owner + np.arange(len(owner))] = True
    values[is_left] = left.values[left.offsets[0] : left.offsets[-1]]
    values[~is_left] = right.values[right.offsets[0] : right.offsets[-1]]
    return Ragged(values, offsets)


def stable_order(keys: Ints) -> Ints:
    """A stable argsort of keys ≥ 0, sixteen bits at a time: there numpy has a radix sort."""
    order = np.arange(len(keys))
    bits = int(keys.max(initial=0)).bit_length()
    for shift in range(0, bits, 16):
        digit = (keys[order] >> shift).astype(np.uint16)
        order = order[np.argsort(digit, kind="stable")]
    return order


@dataclass(frozen=True)
class Grouped:
    """Values ≥ 0, grouped by what they are."""

    distinct: Ints
    """[K] ascending."""
    place: Ints
    """Where each value stands among ``distinct``."""
    order: Ints
    """The values' places sorted by value, stable."""
    start: Ints
    """[K] where each distinct value's stand in ``order``."""

    @classmethod
    def of(cls, values: Ints) -> "Grouped":
        order = stable_order(values)
        ordered = values[order]
        is_new = np.ones(len(values), bool)
        is_new[1:] = ordered[1:] != ordered[:-1]
        place = np.empty(len(values), np.int64)
        place[order] = np.cumsum(is_new) - 1
        return cls(ordered[is_new], place, order, np.flatnonzero(is_new))


def offsets_of(lengths: Ints) -> Ints:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    lengths.cumsum(out=offsets[1:])
    return offsets
