"""Tasks dealt anew: other rows as support and query, shorter supports."""

from dataclasses import replace

import numpy as np

from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.ragged import Ragged, offsets_of, stable_order


def resample_support_query(
    tasks: TaskTable, rng: np.random.Generator, *, short_support_rate: float = 0.0
) -> TaskTable:
    """The same users with support and query dealt anew at random, as many rows of each.

    ``short_support_rate`` of the users get a shorter support, of a length drawn log-uniformly from
    1 row to all, so that adapting to few rows is learnt too.
    """
    num_support, num_query = tasks.support_item.lengths, tasks.query_item.lengths
    user = np.arange(len(tasks))
    owner = np.concatenate((np.repeat(user, num_support), np.repeat(user, num_query)))
    item = np.concatenate((tasks.support_item.values, tasks.query_item.values))
    label = np.concatenate((tasks.support_label.values, tasks.query_label.values))
    shuffled = rng.permutation(len(owner))
    order = shuffled[stable_order(owner[shuffled])]
    total = num_support + num_query
    place = np.arange(len(owner)) - np.repeat(np.cumsum(total) - total, total)
    is_query = place < np.repeat(num_query, total)
    kept = num_support
    if short_support_rate:
        drawn = np.exp(rng.random(len(user)) * np.log(np.maximum(num_support, 1)))
        is_short = rng.random(len(user)) < short_support_rate
        kept = np.where(
            is_short, np.minimum(np.ceil(drawn).astype(np.int64), num_support), num_support
        )
    is_support = ~is_query & (place < np.repeat(num_query + kept, total))
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
    """The same tasks with at most ``length`` support rows: the first, or random ones."""
    lengths = tasks.support_item.lengths
    order = np.arange(len(tasks.support_item.values))
    if rng is not None:
        shuffled = rng.permutation(len(order))
        owner = np.repeat(np.arange(len(tasks)), lengths)
        order = shuffled[stable_order(owner[shuffled])]
    place = np.arange(len(order)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    chosen = order[place < length]
    offsets = offsets_of(np.minimum(lengths, length))
    return replace(
        tasks,
        support_item=Ragged(tasks.support_item.values[chosen], offsets),
        support_label=Ragged(tasks.support_label.values[chosen], offsets),
    )
