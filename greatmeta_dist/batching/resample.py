"""Other support sets of the same users: split anew, or shortened.

Shapes: U users, n rows of all users' sets together.
"""

from dataclasses import replace

import numpy as np

from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.ragged import Ints, Ragged, offsets_of, stable_order


def resample_support_query(
    tasks: TaskTable, rng: np.random.Generator, *, short_support_rate: float = 0.0
) -> TaskTable:
    """The same users, their rows split at random into support and query of the same sizes.

    ``short_support_rate`` of the users get a shorter support, of a length drawn log-uniformly from
    1 row to all, so that adapting to few rows is learnt too.
    """
    num_support, num_query = tasks.support_item.lengths, tasks.query_item.lengths
    num_rows = num_support + num_query
    users = np.arange(len(tasks))
    user = np.concatenate((np.repeat(users, num_support), np.repeat(users, num_query)))
    item = np.concatenate((tasks.support_item.values, tasks.query_item.values))
    label = np.concatenate((tasks.support_label.values, tasks.query_label.values))
    order = _shuffled_within_users(user, rng)
    # A user's first rows are the query, so that a shorter support leaves the query as it is.
    position = _position_in_list(num_rows)
    is_query = position < np.repeat(num_query, num_rows)
    kept = num_support
    if short_support_rate:
        kept = _shortened(num_support, rng, short_support_rate)
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
        order = _shuffled_within_users(np.repeat(np.arange(len(tasks)), lengths), rng)
    kept = order[_position_in_list(lengths) < length]
    offsets = offsets_of(np.minimum(lengths, length))
    return replace(
        tasks,
        support_item=Ragged(tasks.support_item.values[kept], offsets),
        support_label=Ragged(tasks.support_label.values[kept], offsets),
    )


def _shuffled_within_users(user: Ints, rng: np.random.Generator) -> Ints:
    """Positions of rows, user by user, each user's in random order; ``user`` [n] is of each row."""
    # One permutation of all rows and a stable sort by user: no loop over users.
    shuffled = rng.permutation(len(user))
    return shuffled[stable_order(user[shuffled])]


def _position_in_list(lengths: Ints) -> Ints:
    """0, 1, … within each of the lists of these lengths, end to end."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _shortened(lengths: Ints, rng: np.random.Generator, rate: float) -> Ints:
    """Lengths [U], of which a share ``rate`` is drawn log-uniformly from 1 to the length."""
    drawn = np.exp(rng.random(len(lengths)) * np.log(np.maximum(lengths, 1)))
    is_short = rng.random(len(lengths)) < rate
    return np.where(is_short, np.minimum(np.ceil(drawn).astype(np.int64), lengths), lengths)
