"""Users of similar support size are padded together."""

import numpy as np
from numpy.typing import NDArray

BUCKET_COST_ROWS = 1024
"""Padding rows that cost a step as much as one more bucket."""


def length_buckets(lengths: NDArray[np.int64]) -> list[slice]:
    """Cut users, sorted by length, into buckets of which each is padded to its own longest.

    A cut saves the shorter users' padding and costs a bucket's overhead. The best cut is made while
    it pays, then again on either side.
    """
    if len(lengths) < 2:
        return [slice(0, len(lengths))]
    # Cut after the first k users, these need no padding to the longest, but to the k-th.
    saved = np.arange(1, len(lengths)) * (lengths[-1] - lengths[:-1])
    best = int(np.argmax(saved))
    if saved[best] <= BUCKET_COST_ROWS:
        return [slice(0, len(lengths))]
    cut = best + 1
    longer = [slice(b.start + cut, b.stop + cut) for b in length_buckets(lengths[cut:])]
    return [*length_buckets(lengths[:cut]), *longer]
