"""Sums along one fixed binary tree, so that the number of workers changes no bit.

Floating-point addition is commutative but not associative: a + b and b + a are the same bits, while
(a + b) + c and a + (b + c) in general are not. So what a sum over lanes comes to depends on where
its brackets stand. Here they always stand as in ::

    ((lane 0 + lane 1) + (lane 2 + lane 3)) + ((lane 4 + lane 5) + (lane 6 + lane 7))

With K lanes and W workers, both powers of two, each worker hosts K/W neighbouring lanes. These are
the leaves of one whole subtree: with eight lanes, two workers host lanes 0–3 and 4–7, the two
halves above. So a worker's own sum is a node of that tree, whatever W is. Adding the workers' sums
by the same rule, in rank order, gives the rest of the tree. One worker takes all the additions by
itself; several take the same ones, on the same numbers, in different places.
"""

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor


def tree_sum(
    terms: Iterable[list[Tensor]], heights: Iterable[int] = itertools.repeat(0)
) -> list[Tensor]:
    """Add lists of tensors along a binary tree over their order, neighbours first.

    Each term is a list of tensors; all terms have the same number of them, of the same shapes, and
    the sum is taken tensor by tensor. Adds in place: the sum stands in the tensors of the first
    term, and those of other terms are overwritten. ``heights`` are those of the subtrees that terms
    are sums of: 0 for one lane, 1 for two. Terms are taken one at a time, and of n terms no
    more than log₂ n + 1 are held at once.
    """
    # Finished subtrees from left to right, each with its height; heights only fall. As in a binary
    # counter, two neighbours of the same height are added as soon as the right one is finished.
    subtrees: list[tuple[int, list[Tensor]]] = []
    for term, height in zip(terms, heights, strict=False):
        subtrees.append((height, term))
        while len(subtrees) > 1 and subtrees[-1][0] == subtrees[-2][0]:
            _add_last_two(subtrees)
    # A number of terms that is no power of two (a lane's length buckets) leaves several.
    while len(subtrees) > 1:
        _add_last_two(subtrees)
    return subtrees[0][1]


def _add_last_two(subtrees: list[tuple[int, list[Tensor]]]) -> None:
    """Replace the last two subtrees by their sum, in the left one's tensors."""
    (_, right), (height, left) = subtrees.pop(), subtrees.pop()
    torch._foreach_add_(left, right)
    subtrees.append((height + 1, left))


def tree_of_lanes(sums: list[Tensor]) -> list[Tensor]:
    """Add sums of a power of two of neighbouring lanes, [L, …] each, along the tree."""
    by_lane = zip(*(of_lanes.unbind() for of_lanes in sums), strict=True)
    return tree_sum(list(of_lane) for of_lane in by_lane)
