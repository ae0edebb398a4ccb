"""Items that users have not met, drawn as rows of label 0, for logs that hold clicks alone."""

import numpy as np
from numpy.typing import NDArray

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.hashing import draw_bits, hash_tokens, pair_hashes, to_unit
from greatmeta_dist.data.split import Bools, Catalogue, History, SplitRows

Ints = NDArray[np.int64]


def add_negatives(
    splits: dict[str, SplitRows], history: History, catalogue: Catalogue, config: DataConfig
) -> dict[str, SplitRows]:
    """The tasks with negatives: items that the user does not have in ``history``.

    For each row ``data.negatives`` candidates are drawn evenly from the catalogue: from the cold
    items where the row is of a query of cold items, from the others elsewhere. Candidates that the
    user met, that come twice in a task, or that training may not have are dropped, so a row may get
    fewer.
    """
    num_items = len(catalogue.token)
    met = np.unique(_pairs(history.user, history.item, num_items))
    drawn = {
        name: _draw(name, rows, met, history, catalogue, config) for name, rows in splits.items()
    }
    if "warm" in drawn and "train" in drawn:
        # Else the warm scenario would ask for rows whose label was trained on.
        warm = drawn["warm"]
        asked = _pairs(warm.user[warm.is_query], warm.item[warm.is_query], num_items)
        train = drawn["train"]
        is_asked = np.isin(_pairs(train.user, train.item, num_items), asked)
        drawn["train"] = _where(train, ~is_asked)
    return {name: _join(rows, drawn[name]) for name, rows in splits.items()}


def _draw(
    split: str,
    rows: SplitRows,
    met: Ints,
    history: History,
    catalogue: Catalogue,
    config: DataConfig,
) -> SplitRows:
    """The negatives of one split's tasks; ``met`` are pairs, ascending."""
    num_items = len(catalogue.token)
    asks_cold = rows.is_query & (split in ("item_cold", "both_cold"))
    pools = [
        (~asks_cold, np.flatnonzero(~catalogue.is_cold)),
        (asks_cold, np.flatnonzero(catalogue.is_cold)),
    ]
    # A row's draws are a hash of the row, so they do not depend on the bucket it is in.
    pairs = pair_hashes(history.hash[rows.user], catalogue.hash[rows.item])
    row_hash = pair_hashes(np.broadcast_to(hash_tokens([split]), pairs.shape), pairs)
    items = []
    for number in range(config.negatives):
        draw = to_unit(draw_bits(row_hash, config.seed, f"negative {number}"))
        item = np.zeros(len(rows), np.int64)
        for is_in, pool in pools:
            if is_in.any():
                item[is_in] = pool[(draw[is_in] * len(pool)).astype(np.int64)]
        items.append(item)
    item = np.concatenate(items)
    user = np.tile(rows.user, config.negatives)
    is_query = np.tile(rows.is_query, config.negatives)
    pair = _pairs(user, item, num_items)
    _, first = np.unique(pair, return_index=True)
    kept = np.sort(first[~_is_in_sorted(pair[first], met)])
    kept = kept[np.argsort(user[kept], kind="stable")]
    return SplitRows(user[kept], item[kept].astype(np.int32), np.zeros(len(kept)), is_query[kept])


def _pairs(user: NDArray, item: NDArray, num_items: int) -> Ints:
    """A user and an item as one number."""
    return user.astype(np.int64) * num_items + item


def _is_in_sorted(values: Ints, ordered: Ints) -> Bools:
    at = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return ordered[at] == values


def _where(rows: SplitRows, is_kept: Bools) -> SplitRows:
    return SplitRows(
        rows.user[is_kept], rows.item[is_kept], rows.rating[is_kept], rows.is_query[is_kept]
    )


def _join(left: SplitRows, right: SplitRows) -> SplitRows:
    """The rows of both, user by user, the left ones first."""
    user = np.concatenate((left.user, right.user))
    order = np.argsort(user, kind="stable")
    return SplitRows(
        user[order],
        np.concatenate((left.item, right.item))[order],
        np.concatenate((left.rating, right.rating))[order],
        np.concatenate((left.is_query, right.is_query))[order],
    )
