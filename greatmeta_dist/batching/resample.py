"""Other support sets of the same users: split anew, or shortened.

Shapes: U users, n rows of all users' sets together.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.ragged import Ints, Ragged, offsets_of, stable_order


def resample_support_query(
    tasks: TaskTable, *rngs: np.random.Generator, short_support_rate: float = 0.0
) -> TaskTable:
    """The same users, their rows split at random into support and query of the same sizes.

    Each generator draws for as many users as every other, those of the first one first.
    ``short_support_rate`` of the users get a shorter support, of a length drawn log-uniformly from
    1 row to all, so that adapting to few rows is learnt too.
    """
    num_support, num_query = tasks.support_item.lengths, tasks.query_item.lengths
    num_rows = num_support + num_query
    users = np.arange(len(tasks))
    user = np.concatenate((np.repeat(users, num_support), np.repeat(users, num_query)))
    item = np.concatenate((tasks.support_item.values, tasks.query_item.values))
    label = np.concatenate((tasks.support_label.values, tasks.query_label.values))
    order = _user_by_user(user, np.concatenate(list(_shuffled(num_support, num_query, rngs))))
    # A user's first rows are the query, so that a shorter support leaves the query as it is.
    position = _position_in_list(num_rows)
    is_query = position < np.repeat(num_query, num_rows)
    kept = num_support
    if short_support_rate:
        kept = _shortened(num_support, rngs, short_support_rate)
    is_support = ~is_query & (position < np.repeat(num_query + kept, num_rows))
    support, query = order[is_support], order[is_query]
    offsets = offsets_of(kept)
    return TaskTable(
        tasks.features,
        Ragged(item[support], offsets),
        Ragged(label[support], offsets),
        Ragged(item[query], tasks.query_item.offsets),
        Ragged(label[query], tasks.query_label.offsets),
    )


def shorten(tasks: TaskTable, length: int, rng: np.random.Generator | None = None) -> TaskTable:
    """The same tasks with at most ``length`` support rows: the first ones, or with ``rng`` any."""
    lengths = tasks.support_item.lengths
    order = np.arange(len(tasks.support_item.values))
    if rng is not None:
        user = np.repeat(np.arange(len(tasks)), lengths)
        order = _user_by_user(user, rng.permutation(len(user)))
    kept = order[_position_in_list(lengths) < length]
    offsets = offsets_of(np.minimum(lengths, length))
    return replace(
        tasks,
        support_item=Ragged(tasks.support_item.values[kept], offsets),
        support_label=Ragged(tasks.support_label.values[kept], offsets),
    )


def _shuffled(
    num_support: Ints, num_query: Ints, rngs: Sequence[np.random.Generator]
) -> Iterator[Ints]:
    """By generator, the positions of its users' rows in random order; all users' support rows stand
    before their query rows."""
    of_support, of_query = (
        offsets_of(lengths.reshape(len(rngs), -1).sum(1)) for lengths in (num_support, num_query)
    )
    ranges = zip(
        *(itertools.pairwise(o) for o in (of_support, of_query + of_support[-1])), strict=True
    )
    for rng, of_sets in zip(rngs, ranges, strict=True):
        rows = np.concatenate([np.arange(*of_set) for of_set in of_sets])
        yield rows[rng.permutation(len(rows))]


def _user_by_user(user: Ints, order: Ints) -> Ints:
    """The rows in ``order``, but user by user; ``user`` [n] is of each row."""
    return order[stable_order(user[order])]  # no loop over users


def _position_in_list(lengths: Ints) -> Ints:
    """0, 1, … within each of the lists of these lengths, end to end."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _shortened(lengths: Ints, rngs: Sequence[np.random.Generator], rate: float) -> Ints:
    """Lengths [U], of which a share ``rate`` is drawn log-uniformly from 1 to the length."""
    num_users = len(lengths) // len(rngs)
    draws = [(rng.random(num_users), rng.random(num_users)) for rng in rngs]
    length, is_short = (np.concatenate(of_all) for of_all in zip(*draws, strict=True))
    drawn = np.ceil(np.exp(length * np.log(np.maximum(lengths, 1)))).astype(np.int64)
    return np.where(is_short < rate, np.minimum(drawn, lengths), lengths)
