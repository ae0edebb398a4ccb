"""Users of similar set sizes are padded together.

How far a user's support is padded depends on who else is in the batch, and so on how many lanes a
worker hosts. What is computed for the user must not. Two things would make it:

- A sum of products over more than ``LONGEST_SUM`` rows is cut into blocks by its length, as matrix
  libraries hold so many rows in a cache. So longer supports are padded to lengths of a fixed grid.
- Products of very few rows go through other code. So a support is padded to ``Padding.fewest`` at
  least.

And the model computes some layers of an adapted user in one of two ways, by the number of rows: no
bucket has users on both sides of such a number.
"""

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.meta.layer_input import FEWEST_ROWS
from greatmeta_dist.meta.padding import Padding

PLAIN = Padding()
BUCKET_COST_ROWS = 1024
"""Padding rows that cost a step as much as one more bucket."""
LONGEST_SUM = 192
GRID_RATIO = 1.5
"""Of the lengths that long supports are padded to."""


def support_buckets(
    num_support: NDArray[np.int64], padding: Padding = PLAIN, *, is_furthest: bool = False
) -> list[tuple[NDArray[np.int64], int]]:
    """Cut users by the length of their supports [B]; no bucket is empty.

    ``is_furthest`` pads them as far as any batch would. Returns each bucket's users, ascending, and
    the rows that their supports are padded to.
    """
    points = [n for n in padding.turning_points if FEWEST_ROWS <= n < LONGEST_SUM]
    tops = sorted({*points, LONGEST_SUM})
    while tops[-1] < num_support.max(initial=0):
        tops.append(int(tops[-1] * GRID_RATIO))
    order = np.argsort(num_support, kind="stable")
    ends = np.searchsorted(num_support[order], tops, side="right")
    buckets = []
    for top, of_top in zip(tops, np.split(order, ends[:-1]), strict=True):
        for bucket in length_buckets(num_support[of_top]) if len(of_top) else ():
            users = np.sort(of_top[bucket])
            num_rows = top
            if top <= LONGEST_SUM and not is_furthest:
                longest = int(num_support[users].max())
                num_rows = min(max(padding.fewest, -(-longest // 8) * 8), top)
            buckets.append((users, num_rows))
    return _merged(buckets)


def _merged(
    buckets: list[tuple[NDArray[np.int64], int]],
) -> list[tuple[NDArray[np.int64], int]]:
    """The same, with neighbours of one padded length as one."""
    merged: list[tuple[NDArray[np.int64], int]] = []
    for users, num_rows in buckets:
        if merged and merged[-1][1] == num_rows:
            users = np.sort(np.concatenate((merged.pop()[0], users)))
        merged.append((users, num_rows))
    return merged


def length_buckets(*lengths: NDArray[np.int64]) -> list[slice]:
    """Cut users, sorted by length, into buckets of which each is padded to its own longest.

    ``lengths`` are those of each set, support and query, of every user; users are sorted by their
    sum. A cut saves the shorter users' padding and costs a bucket's overhead. The best cut is made
    while it pays, then again on either side. So what is padded in a bucket is less than
    ``BUCKET_COST_ROWS`` times the logarithm of its users, however long the longest one is.
    """
    num_users = len(lengths[0])
    if num_users < 2:
        return [slice(0, num_users)]
    # The longest sets of the first k users, and of the others, for every cut k from 1 on.
    first = np.sum([np.maximum.accumulate(length) for length in lengths], 0)[:-1]
    others = np.sum([np.maximum.accumulate(length[::-1])[::-1] for length in lengths], 0)
    cuts = np.arange(1, num_users)
    saved = num_users * others[0] - cuts * first - (num_users - cuts) * others[1:]
    best = int(np.argmax(saved))
    if saved[best] <= BUCKET_COST_ROWS:
        return [slice(0, num_users)]
    cut = best + 1
    longer = [
        slice(bucket.start + cut, bucket.stop + cut)
        for bucket in length_buckets(*(length[cut:] for length in lengths))
    ]
    return [*length_buckets(*(length[:cut] for length in lengths)), *longer]
