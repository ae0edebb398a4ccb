"""Lists of unequal length as one array and offsets (CSR), and grouping of integers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Ragged:
    """Lists of unequal length end to end: list i is ``values[offsets[i] : offsets[i + 1]]``."""

    values: NDArray
    offsets: Ints

    @cached_property
    def lengths(self) -> Ints:
        return self.offsets[1:] - self.offsets[:-1]

    def positions(self, rows: Ints) -> tuple[Ints, Ints]:
        """Positions in ``values`` of the chosen lists, end to end; and the lists' lengths."""
        lengths = self.lengths[rows]
        ends = lengths.cumsum()
        # Position − (index in the result) is the same for all values of a list.
        shift = self.offsets[rows] - ends + lengths
        return shift.repeat(lengths) + np.arange(ends[-1] if len(ends) else 0), lengths

    def take(self, rows: Ints) -> "Ragged":
        """The chosen lists, in the order asked for; a list may be chosen twice."""
        positions, lengths = self.positions(rows)
        return Ragged(self.values[positions], offsets_of(lengths))


def concatenate(chunks: Sequence[Ragged]) -> Ragged:
    """All lists of all chunks, one chunk after the other."""
    lengths = np.concatenate([chunk.lengths for chunk in chunks])
    return Ragged(np.concatenate([chunk.values for chunk in chunks]), offsets_of(lengths))


def join_lists(left: Ragged, right: Ragged) -> Ragged:
    """As many lists, each the left one's values and then the right one's."""
    lengths = left.lengths + right.lengths
    offsets = offsets_of(lengths)
    values = np.empty(offsets[-1], left.values.dtype)
    # Both sides keep their order, so it is enough to know which positions are the left side's. A
    # view of a larger array may start past 0; its first offset is taken off.
    is_left = np.zeros(len(values), bool)
    shift = np.repeat(offsets[:-1] - left.offsets[:-1] + left.offsets[0], left.lengths)
    is_left[shift + np.arange(len(shift))] = True
    values[is_left] = left.values[left.offsets[0] : left.offsets[-1]]
    values[~is_left] = right.values[right.offsets[0] : right.offsets[-1]]
    return Ragged(values, offsets)


def stable_order(keys: Ints) -> Ints:
    """A stable argsort of keys ≥ 0.

    numpy sorts 16-bit integers by radix, in linear time, and wider ones by comparison. So keys are
    sorted 16 bits at a time, lowest first; each sort is stable and keeps the order of those before.
    """
    order = np.arange(len(keys))
    bits = int(keys.max(initial=0)).bit_length()
    for shift in range(0, bits, 16):
        digit = (keys[order] >> shift).astype(np.uint16)
        order = order[np.argsort(digit, kind="stable")]
    return order


@dataclass(frozen=True)
class Grouped:
    """Integers ≥ 0, grouped by equality."""

    distinct: Ints
    """[K] ascending."""
    index: Ints
    """[values] which of the distinct ones each value is."""
    order: Ints
    """[values] positions of the values, sorted by value; equal ones in their order."""
    start: Ints
    """[K] where each distinct value's positions start in ``order``."""

    @classmethod
    def of(cls, values: Ints) -> "Grouped":
        order = stable_order(values)
        ordered = values[order]
        is_new = np.ones(len(values), bool)
        is_new[1:] = ordered[1:] != ordered[:-1]
        index = np.empty(len(values), np.int64)
        index[order] = np.cumsum(is_new) - 1
        return cls(ordered[is_new], index, order, np.flatnonzero(is_new))


def offsets_of(lengths: Ints) -> Ints:
    """[n + 1] offsets of lists of these lengths [n]."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    lengths.cumsum(out=offsets[1:])
    return offsets
