"""Which interaction is in whose support or query, and in which split: by the recipe in the options.

The splits are ``train``, ``valid`` and the four scenarios ``warm``, ``user_cold``, ``item_cold``,
``both_cold``; a task is a (split, user) pair. Frames call the column of splits ``part``, as the
header of a split file does.

Random choices are functions of the seed and of tokens. They do not depend on how the log is stored
or cut into buckets, nor (drawn negatives apart, see ``negatives.py``) on who and what else is in
it.
"""

import zlib

import numpy as np
import polars as pl
from numpy.typing import NDArray

from greatmeta_dist.config import DataConfig

SCENARIOS = ("warm", "user_cold", "item_cold", "both_cold")
SPLITS = ("train", "valid", *SCENARIOS)
ROLES = ("support", "query")


def uniform_hash(tokens: pl.Series, seed: int, purpose: str) -> NDArray[np.float64]:
    """A number in [0, 1) for each token [n]: the same on every machine and in every version.

    Numbers for different purposes are independent of one another.
    """
    salt = f"{seed}/{purpose}/".encode()
    # CRC-32 is fixed by a standard and fast in C; Python's and Polars' hashes may change. Going on
    # from the salt's CRC gives the CRC of salt + token.
    salt_crc = zlib.crc32(salt)
    token_crc = np.fromiter(
        (zlib.crc32(t.encode(), salt_crc) for t in tokens.to_list()), np.uint64, len(tokens)
    )
    # But CRC-32 is linear: two salts change it by one XOR, the same for all tokens of a length, so
    # that the draw for one purpose would tell the draw for another. The finaliser of splitmix64
    # (Steele, Lea and Flood, 2014) breaks this, and spreads the 32 bits over 64.
    with np.errstate(over="ignore"):  # it is arithmetic modulo 2**64
        z = token_crc + np.uint64(salt_crc) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    # The upper 53 bits: as many as a float64 holds exactly.
    return (z >> np.uint64(11)).astype(np.float64) / 2.0**53


def held_out_items(tokens: pl.Series, config: DataConfig) -> NDArray[np.bool_]:
    """[items] whether an item is cold: no training task may have it."""
    return uniform_hash(tokens, config.seed, "item") < config.cold_item_fraction


def split_by_recipe(
    log: pl.DataFrame, items: pl.Series, is_cold_item: NDArray[np.bool_], config: DataConfig
) -> tuple[pl.DataFrame, int, int]:
    """Assign a log's users to splits, and their interactions to support and query.

    Takes ``user``, ``item`` (index into the tokens ``items``), ``rating``, ``timestamp``, ``line``:
    the whole history of each user, and any users. Returns

    - the tasks' rows, task by task in the order of the log: ``part`` (the split), ``user``,
      ``role``, ``item``, ``rating``;
    - the number of interactions of users left out, since they have too few or too many, or no more
      than their query takes;
    - the number of other users' interactions that are in no task.
    """
    log = log.with_columns(is_cold=pl.Series(is_cold_item)[log["item"]])
    users = _assign_users(log, config)
    kept = log.join(users, on="user", how="inner", maintain_order="left")
    ranked = _rank(kept, items, config)
    tasks = pl.concat(_tasks(ranked, config))
    num_used = tasks.select(pl.struct("user", "item").n_unique()).item()
    return tasks, len(log) - len(ranked), len(ranked) - num_used


def _assign_users(log: pl.DataFrame, config: DataConfig) -> pl.DataFrame:
    """Users within bounds: ``user``, ``count``, ``kind`` (train, valid, test) and ``warm_draw``."""
    counts = log.group_by("user", maintain_order=True).len("count")
    too_many = pl.lit(False)
    if config.max_interactions is not None:
        too_many = pl.col("count") > config.max_interactions
    users = counts.filter((pl.col("count") >= config.min_interactions) & ~too_many)
    # The purpose is hashed, so that another name for it would be another split.
    draw = uniform_hash(users["user"], config.seed, "part")
    kind = np.select(
        [draw < config.test_fraction, draw < config.test_fraction + config.valid_fraction],
        ["test", "valid"],
        "train",
    )
    return users.with_columns(
        kind=pl.Series(kind),
        warm_draw=pl.Series(uniform_hash(users["user"], config.seed, "warm")),
    )


def _rank(kept: pl.DataFrame, items: pl.Series, config: DataConfig) -> pl.DataFrame:
    """Interactions of users who have a task, with what decides where they go.

    Adds ``q``, the user's query size; ``rank``, from 0, among the user's interactions with warm
    items, or with cold ones; ``is_warm``, whether the user is in the warm scenario; ``train_rank``,
    the rank among what training may have of warm items (negative where it may not); ``num_cold``,
    the user's interactions with cold items.
    """
    if config.query_by == "time":
        order, descending = "timestamp", True
    else:
        # Ranks of hashes are a random order that depends on the user's own interactions alone.
        # Generator draws would depend on the order of the rows and on the users before.
        pairs = kept["user"] + "/" + items[kept["item"]]
        kept = kept.with_columns(draw=pl.Series(uniform_hash(pairs, config.seed, "query")))
        order, descending = "draw", False
    rank = pl.col(order).rank("ordinal", descending=descending).over("user", "is_cold") - 1
    num_warm = (~pl.col("is_cold")).sum().over("user")
    if config.query_items is not None:
        q = pl.lit(config.query_items)
    else:
        q = (num_warm * config.query_fraction).ceil().cast(pl.Int64)
    ranked = kept.with_columns(rank=rank.cast(pl.Int64), q=q.cast(pl.Int64), num_warm=num_warm)
    is_warm = (pl.col("kind") == "train") & (pl.col("warm_draw") < config.warm_fraction)
    is_warm &= pl.col("num_warm") > 2 * pl.col("q")
    # A warm user trains and is tested. Their first q interactions are the warm query and held back
    # from training, which has the next q as its query and the rest as support. So nothing that the
    # warm scenario asks for was trained on; by time, it is what came last.
    num_held_back = pl.when(is_warm).then(pl.col("q")).otherwise(0)
    has_task = pl.col("num_warm") > pl.col("q")
    return ranked.with_columns(
        is_warm=is_warm,
        train_rank=pl.col("rank") - num_held_back,
        num_cold=pl.col("is_cold").sum().over("user"),
    ).filter(has_task)


def _tasks(ranked: pl.DataFrame, config: DataConfig) -> list[pl.DataFrame]:
    """Every split's tasks, in the order of ``SPLITS``."""
    is_cold, kind, q = pl.col("is_cold"), pl.col("kind"), pl.col("q")
    rank, train_rank = pl.col("rank"), pl.col("train_rank")
    max_support = config.max_support_items
    is_train, is_test = kind == "train", kind == "test"
    has_cold = pl.col("num_cold") > 0
    warm_query, cold_query = ~is_cold & (rank < q), is_cold & (rank < q)

    def task(split: str, users: pl.Expr, support: pl.Expr, query: pl.Expr) -> pl.DataFrame:
        role = pl.when(query).then(pl.lit("query")).when(support).then(pl.lit("support"))
        return (
            ranked.filter(users)
            .with_columns(part=pl.lit(split), role=role)
            .filter(pl.col("role").is_not_null())
            .select("part", "user", "role", "item", "rating")
        )

    def support_from(first: pl.Expr, rank: pl.Expr) -> pl.Expr:
        """Warm items' interactions from the given rank on, as many as a support may have."""
        is_after = ~is_cold & (rank >= first)
        return is_after if max_support is None else is_after & (rank < first + max_support)

    train_query = ~is_cold & train_rank.is_between(0, q - 1)
    all_trained = support_from(pl.lit(0), train_rank)
    return [
        task("train", is_train, support_from(q, train_rank), train_query),
        task("valid", kind == "valid", support_from(q, rank), warm_query),
        task("warm", pl.col("is_warm"), all_trained, warm_query),
        task("user_cold", is_test, support_from(q, rank), warm_query),
        task("item_cold", is_train & has_cold, all_trained, cold_query),
        task("both_cold", is_test & has_cold, support_from(q, rank), cold_query),
    ]
