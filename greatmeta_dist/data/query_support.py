"""How large a user's query and support sets are, and which interactions a full support keeps.

Shapes: U users of a bucket, n interactions.
"""

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.hashing import Hashes, draw_bits, pair_hashes
from greatmeta_dist.data.split import Bools, Catalogue, History, Ints
from greatmeta_dist.ragged import stable_order


def draws_of(history: History, catalogue: Catalogue, config: DataConfig) -> Hashes:
    """[n] random bits of each interaction, a function of the seed, the user and the item."""
    pairs = pair_hashes(history.hash[history.user], catalogue.hash[history.item])
    return draw_bits(pairs, config.seed, "query")


def latest_first(group: Ints, time: NDArray[np.float64], draw: Hashes) -> Ints:
    """The rows [n] by ``group``, then the latest first; of equal times, that of the least draw.

    Three keys at once take several times as long: most times of a group differ.
    """
    order = np.argsort(-time)
    order = order[stable_order(group[order])]
    is_tied = (group[order[1:]] == group[order[:-1]]) & (time[order[1:]] == time[order[:-1]])
    if is_tied.any():
        run = np.cumsum(np.append(True, ~is_tied))
        places = np.flatnonzero(np.append(is_tied, False) | np.append(False, is_tied))
        rows = order[places]
        order[places] = rows[np.lexsort((draw[rows], run[places]))]
    return order


def query_sizes(num_warm: Ints, config: DataConfig, *, num_queries: int = 1) -> Ints:
    """[U] interactions of each user's query, out of ``num_warm`` [U] that it may take.

    A query gives way to short histories: it takes at most ``data.max_query_fraction`` of them, and
    leaves one to the support. A user of ``num_queries`` has so many queries of that size.
    """
    if config.query_items is not None:
        share = np.floor(num_warm * config.max_query_fraction).astype(np.int64)
        size = np.minimum(config.query_items, share)
    else:
        assert config.query_fraction is not None
        size = np.ceil(num_warm * config.query_fraction).astype(np.int64)
    return np.clip(size, 1, np.maximum((num_warm - 1) // num_queries, 1))


def cap_supports(history: History, support: Bools, draw: Hashes, config: DataConfig) -> Bools:
    """The ``support`` rows [n] of all users, at most ``data.max_support`` of each.

    Of more, the latest are kept, or those of the least ``draw`` [n], which are random ones. Equal
    times are in the order of draws, too.
    """
    most = config.max_support
    if most is None:
        return support
    rows = np.flatnonzero(support & (history.count(support) > most)[history.user])
    if not len(rows):
        return support
    keys: list[NDArray] = [draw[rows], history.user[rows]]
    if config.support_rule == "latest":
        assert history.timestamp is not None
        keys.insert(1, -history.timestamp[rows])
    ordered = rows[np.lexsort(keys)]
    user = history.user[ordered]
    position = np.arange(len(ordered)) - np.searchsorted(user, user)
    kept = support.copy()
    kept[ordered[position >= most]] = False
    return kept
