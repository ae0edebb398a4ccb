"""A bucket of the log → its users' histories: repeats resolved, items as indices, users in order."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.hashing import draw_bits, hash_tokens
from greatmeta_dist.data.split import History

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class BucketHistory:
    """A bucket's histories, and what became of its other rows."""

    history: History
    num_repeats: int
    """Rows that were merged into another one of the same user and item."""
    unlisted: pl.DataFrame
    """Rows of users whom the users' file does not list."""


def read_history(
    rows: pl.DataFrame, index_of_item: pl.DataFrame, users: pl.DataFrame | None, config: DataConfig
) -> BucketHistory:
    """The histories of a bucket's users.

    ``rows`` has ``user item rating timestamp line``; ``index_of_item`` the ``index`` of each
    ``item``, as it stands in the log; ``users`` the ``id`` of users that may be, where these are
    listed.
    """
    unlisted = rows.clear()
    if users is not None:
        is_listed = pl.col("user").cast(pl.String).is_in(users["id"].implode())
        rows, unlisted = rows.filter(is_listed), rows.filter(~is_listed)
    index = rows.select("item").join(index_of_item, on="item", how="left", maintain_order="left")
    item = index["index"].to_numpy()
    distinct, user = _numbered(rows["user"], config.seed)
    rating = rows["rating"].to_numpy()
    has_time = rows["timestamp"].null_count() < len(rows)
    timestamp = rows["timestamp"].fill_null(-np.inf).to_numpy() if has_time else None
    history = History(distinct, hash_tokens(distinct), user, item, rating, timestamp)
    merged = resolve_repeats(history, rows["line"].to_numpy(), config)
    return BucketHistory(merged, len(rows) - len(merged.user), unlisted)


def _numbered(user: pl.Series, seed: int) -> tuple[pl.Series, Ints]:
    """Distinct users as text, in an order that their tokens alone decide; and each row's number."""
    distinct = user.unique(maintain_order=False)
    tokens = distinct.cast(pl.String)
    order = np.argsort(draw_bits(hash_tokens(tokens), seed, "order"), kind="stable")
    numbers = pl.DataFrame({"user": distinct[order], "number": np.arange(len(order))})
    number = user.to_frame("user").join(numbers, on="user", how="left", maintain_order="left")
    return tokens[order], number["number"].to_numpy()


def resolve_repeats(history: History, line: Ints, config: DataConfig) -> History:
    """One interaction for each user and item, by ``data.repeats``; sorted by user and item.

    The latest is that of the latest time. Of equal times it is the greatest rating; where the log
    has no times, the last line.
    """
    if not len(history.user):
        return history
    width = int(history.item.max()) + 1
    key = history.user * width + history.item
    order = np.argsort(key)
    ordered = key[order]
    is_first = np.ones(len(key), bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    if is_first.all():
        return history.take(order)
    start = np.flatnonzero(is_first)
    rule = config.repeats_rule
    time, rating = history.timestamp, history.rating[order]
    merged_time = None if time is None else np.maximum.reduceat(time[order], start)
    if rule in ("latest", "first"):
        precedence = (history.rating, line) if time is None else (history.rating, time)
        best = _best_rows(order, start, precedence, is_last=rule == "latest")
        chosen, merged = best, history.rating[best]
        merged_time = None if time is None else time[best]
    else:
        chosen = order[start]
        count = np.diff(np.append(start, len(order)))
        sums = np.add.reduceat(rating, start)
        merged = {
            "max": lambda: np.maximum.reduceat(rating, start),
            "sum": lambda: sums,
            "mean": lambda: sums / count,
            "count": lambda: count.astype(np.float64),
        }[rule]()
    return History(
        history.token,
        history.hash,
        history.user[chosen],
        history.item[chosen],
        merged,
        merged_time,
    )


def _best_rows(order: Ints, start: Ints, precedence: tuple[NDArray, ...], *, is_last: bool) -> Ints:
    """Of each group of rows the last one (or the first) by keys, the last key counting most."""
    group = np.repeat(np.arange(len(start)), np.diff(np.append(start, len(order))))
    is_single = np.diff(np.append(start, len(order))) == 1
    best = order[start]
    rows = np.flatnonzero(~is_single[group])  # most groups are single rows
    ranked = np.lexsort((*(key[order[rows]] for key in precedence), group[rows]))
    rows = rows[ranked]
    ends = np.ones(len(rows), bool)
    of_group = group[rows]
    if is_last:
        ends[:-1] = of_group[1:] != of_group[:-1]
    else:
        ends[1:] = of_group[1:] != of_group[:-1]
    best[of_group[ends]] = order[rows[ends]]
    return best
