"""A bucket of the log → its users' histories: repeats resolved, items as indices."""

from dataclasses import dataclass, replace

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
    rejected: pl.DataFrame
    """The rows that repeat another one, where ``data.repeats=reject``."""
    times: tuple[float, float] | None
    """The first and the last time of its rows; None where there is none."""


def repeat_reason(config: DataConfig) -> str:
    """Why a row is rejected that repeats another one, with ``data.repeats=reject``."""
    where = ", of those before the point in time if there are any" * config.is_split_by_time
    return f"repeats a user and item; the latest is kept{where}"


def index_of_items(in_log: pl.Series, items: pl.DataFrame) -> pl.DataFrame:
    """``item``, as it stands in the log, and its ``index`` in the catalogue."""
    index = items.select("id").with_row_index("index").with_columns(pl.col("index").cast(pl.Int32))
    found = pl.DataFrame({"item": in_log, "id": in_log.cast(pl.String)}).join(index, on="id")
    return found.select("item", "index")


def read_history(
    rows: pl.DataFrame,
    index_of_item: pl.DataFrame,
    config: DataConfig,
    *,
    has_time: bool,
    split_time: float | None = None,
) -> BucketHistory:
    """The histories of a bucket's users.

    ``rows`` has ``user item rating timestamp line``, in any order; ``index_of_item`` the ``index``
    of each ``item``, as it stands in the log. ``has_time`` says whether the log has times at all.
    """
    index = rows.select("item").join(index_of_item, on="item", how="left", maintain_order="left")
    item = index["index"].to_numpy()
    distinct, user = _numbered(rows["user"], config.seed)
    rating = rows["rating"].to_numpy()
    # A row without a time counts as older than any other.
    timestamp = rows["timestamp"].fill_null(-np.inf).to_numpy() if has_time else None
    num_rows = np.bincount(user, minlength=len(distinct))
    history = History(distinct, hash_tokens(distinct), user, item, rating, timestamp, num_rows)
    line = rows["line"].to_numpy()
    if split_time is not None:
        return _resolved_before(history, rows, line, config, split_time)
    merged, repeats = resolve_repeats(history, line, config)
    return _bucket_history(merged, repeats, rows, config)


def _resolved_before(
    history: History, rows: pl.DataFrame, line: Ints, config: DataConfig, split_time: float
) -> BucketHistory:
    """Repeats resolved so that what is before the point depends on nothing after it.

    An item that the user met before the point is known: later rows of it only repeat it.
    """
    assert history.timestamp is not None
    is_after = history.timestamp >= split_time
    pair = history.user * (int(history.item.max(initial=0)) + 1) + history.item
    is_again = is_after.copy()
    is_again[is_after] = np.isin(pair[is_after], pair[~is_after])
    kept = np.flatnonzero(~is_again)
    merged, repeats = resolve_repeats(history.take(kept), line[kept], config)
    num_before = history.count(~is_after)
    # Bounds are of the rows before the point, but for users who are new after it.
    num_rows = np.where(num_before > 0, num_before, history.num_rows)
    repeats = np.concatenate((kept[repeats], np.flatnonzero(is_again)))
    return _bucket_history(replace(merged, num_rows=num_rows), repeats, rows, config)


def _bucket_history(
    merged: History, repeats: Ints, rows: pl.DataFrame, config: DataConfig
) -> BucketHistory:
    is_rejected = config.repeats_rule == "reject"
    known = rows["timestamp"].drop_nulls().to_numpy()
    return BucketHistory(
        replace(merged, rating=_labels(merged.rating, config)),
        0 if is_rejected else len(repeats),
        rows[repeats] if is_rejected else rows.clear(),
        (float(known.min()), float(known.max())) if len(known) else None,
    )


def _labels(rating: NDArray[np.float64], config: DataConfig) -> NDArray[np.float64]:
    """What is predicted of interactions: their ratings, or 1 for a click and 0 for none."""
    if config.is_implicit:
        return np.ones(len(rating))
    if not config.is_click:
        return rating
    assert config.click_at is not None
    return (rating >= config.click_at).astype(np.float64)


def _numbered(user: pl.Series, seed: int) -> tuple[pl.Series, Ints]:
    """Distinct users as text, in an order that their tokens alone decide; and each row's number."""
    distinct = user.unique(maintain_order=False)
    tokens = distinct.cast(pl.String)
    order = np.argsort(draw_bits(hash_tokens(tokens), seed, "order"), kind="stable")
    numbers = pl.DataFrame({"user": distinct[order], "number": np.arange(len(order))})
    number = user.to_frame("user").join(numbers, on="user", how="left", maintain_order="left")
    return tokens[order], number["number"].to_numpy()


def resolve_repeats(history: History, line: Ints, config: DataConfig) -> tuple[History, Ints]:
    """One interaction for each user and item, by ``data.repeats``; sorted by user and item.

    Returns with them the rows that are not kept themselves. The latest row is that of the latest
    time; of equal times it is that of the greatest rating, and of equal ratings the last line. The
    first row is the opposite. Where the log has no times, lines alone decide. A merged row's time
    is the latest one.
    """
    if not len(history.user):
        return history, np.empty(0, np.int64)
    rule, time = config.repeats_rule, history.timestamp
    is_chosen = rule in ("latest", "first", "reject")
    # Sums are added in an order that the rows' values alone decide: another order of adding has
    # other last bits, and a bucket's rows come in no certain order.
    precedence = [line, history.rating] if time is None else [line, history.rating, time]
    order, start = _by_pair(history, [line] if is_chosen and time is None else precedence)
    if len(start) == len(order) and is_chosen:
        return history.take(order), order[:0]
    kept = order[start] if rule == "first" else order[np.append(start[1:], len(order)) - 1]
    is_kept = np.zeros(len(order), bool)
    is_kept[kept] = True
    merged = history.take(kept)
    if not is_chosen:
        merged = replace(merged, rating=_merged(history.rating[order], start, rule))
        if time is not None:
            merged = replace(merged, timestamp=np.maximum.reduceat(time[order], start))
    return merged, np.flatnonzero(~is_kept)


def _merged(rating: NDArray[np.float64], start: Ints, rule: str) -> NDArray[np.float64]:
    """One rating [pairs] for the ratings [n] of each pair, the first of which are at ``start``."""
    count = np.diff(np.append(start, len(rating)))
    if rule == "count":
        return count.astype(np.float64)
    if rule == "max":
        return np.maximum.reduceat(rating, start)
    sums = np.add.reduceat(rating, start)
    return sums / count if rule == "mean" else sums


def _by_pair(history: History, precedence: list[NDArray]) -> tuple[Ints, Ints]:
    """The rows [n] by user and item, and where each such pair starts among them [pairs].

    Rows of one pair are in ascending order of ``precedence``, of which the last key counts most.
    """
    key = history.user * (int(history.item.max()) + 1) + history.item
    order = np.argsort(key)
    ordered = key[order]
    is_first = np.ones(len(key), bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    start = np.flatnonzero(is_first)
    if len(start) < len(order):
        pair = np.cumsum(is_first) - 1
        is_repeated = np.diff(np.append(start, len(order))) > 1
        places = np.flatnonzero(is_repeated[pair])  # most pairs are single rows, and are in place
        rows = order[places]
        order[places] = rows[np.lexsort((*(keys[rows] for keys in precedence), pair[places]))]
    return order, start
