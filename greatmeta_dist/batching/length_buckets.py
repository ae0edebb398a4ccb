"""Users of similar set sizes are padded together."""

import numpy as np
from numpy.typing import NDArray

BUCKET_COST_ROWS = 1024
"""Padding rows that cost a step as much as one more bucket."""


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
