"""Which interaction is whose support or query, in which part.

Parts are ``train``, ``valid`` and the four scenarios ``warm``, ``user_cold``, ``item_cold``,
``both_cold``; a task is a (part, user) pair. Random choices are functions of the seed and of
tokens, so they do not depend on how the log is stored or cut, nor, but for drawn negatives, on who
and what else is in it.
"""

import zlib
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.text import TextFormat, scan_text
from greatmeta_dist.errors import InputError, require

SCENARIOS = ("warm", "user_cold", "item_cold", "both_cold")
PARTS = ("train", "valid", *SCENARIOS)
ROLES = ("support", "query")


def uniform_hash(tokens: pl.Series, seed: int, purpose: str) -> NDArray[np.float64]:
    """A number in [0, 1) for each token: the same on every machine and version."""
    salt = f"{seed}/{purpose}/".encode()
    start = zlib.crc32(salt)
    low = np.fromiter(
        (zlib.crc32(t.encode(), start) for t in tokens.to_list()), np.uint64, len(tokens)
    )
    with np.errstate(over="ignore"):  # splitmix64 spreads the 32 bits over 64
        z = low + np.uint64(start) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) / 2.0**53


def held_out_items(tokens: pl.Series, config: DataConfig) -> NDArray[np.bool_]:
    """Which items no training task may hold."""
    return uniform_hash(tokens, config.seed, "item") < config.cold_item_fraction


def split_by_recipe(
    log: pl.DataFrame, items: pl.Series, is_cold_item: NDArray[np.bool_], config: DataConfig
) -> tuple[pl.DataFrame, int, int]:
    """Deal a log's users to parts and their interactions to roles.

    Takes ``user``, ``item`` (index into the tokens ``items``), ``rating``, ``timestamp``, ``line``,
    the whole history of each user; returns ``part``, ``user``, ``role``, ``item``, ``rating`` in
    the order of the log; the number of interactions of users left out, those with too few or too
    many, or with no more than their query takes; and of others' interactions that no task took.
    """
    log = log.with_columns(is_cold=pl.Series(is_cold_item)[log["item"]])
    counts = log.group_by("user", maintain_order=True).len("count")
    too_many = pl.lit(False)
    if config.max_interactions is not None:
        too_many = pl.col("count") > config.max_interactions
    users = counts.filter((pl.col("count") >= config.min_interactions) & ~too_many)
    draw = uniform_hash(users["user"], config.seed, "part")
    users = users.with_columns(
        kind=pl.Series(
            np.select(
                [draw < config.test_fraction, draw < config.test_fraction + config.valid_fraction],
                ["test", "valid"],
                "train",
            )
        ),
        warm_draw=pl.Series(uniform_hash(users["user"], config.seed, "warm")),
    )
    kept = log.join(users, on="user", how="inner", maintain_order="left")
    ranked = _rank(kept, items, config)
    dealt = pl.concat(_deal(ranked, config))
    num_used = dealt.select(pl.struct("user", "item").n_unique()).item()
    return dealt, len(log) - len(ranked), len(ranked) - num_used


def _rank(kept: pl.DataFrame, items: pl.Series, config: DataConfig) -> pl.DataFrame:
    """Add q, the query size, and each interaction's ``rank`` among its user's, by item warmth."""
    if config.query_by == "time":
        order, descending = "timestamp", True
    else:
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
    # A warm user's first q interactions are kept back, the next q are the training query.
    held = pl.when(is_warm).then(pl.col("q")).otherwise(0)
    has_task = pl.col("num_warm") > pl.col("q")
    return ranked.with_columns(
        is_warm=is_warm,
        own=pl.col("rank") - held,
        num_cold=pl.col("is_cold").sum().over("user"),
    ).filter(has_task)


def _deal(ranked: pl.DataFrame, config: DataConfig) -> list[pl.DataFrame]:
    cold, kind, q = pl.col("is_cold"), pl.col("kind"), pl.col("q")
    most = config.max_support_items
    is_train, is_test = kind == "train", kind == "test"
    cold_query = cold & (pl.col("rank") < q)

    def task(part: str, users: pl.Expr, support: pl.Expr, query: pl.Expr) -> pl.DataFrame:
        role = pl.when(query).then(pl.lit("query")).when(support).then(pl.lit("support"))
        return (
            ranked.filter(users)
            .with_columns(part=pl.lit(part), role=role)
            .filter(pl.col("role").is_not_null())
            .select("part", "user", "role", "item", "rating")
        )

    def capped(first: pl.Expr, rank: pl.Expr) -> pl.Expr:
        """Warm interactions from the given rank on, at most as many as a support may hold."""
        inside = ~cold & (rank >= first)
        return inside if most is None else inside & (rank < first + most)

    own, rank = pl.col("own"), pl.col("rank")
    with_cold = pl.col("num_cold") > 0
    parts = [
        task("train", is_train, capped(q, own), ~cold & own.is_between(0, q - 1)),
        task("valid", kind == "valid", capped(q, rank), ~cold & (rank < q)),
        task("warm", pl.col("is_warm"), capped(pl.lit(0), own), ~cold & (rank < q)),
        task("user_cold", is_test, capped(q, rank), ~cold & (rank < q)),
        task("item_cold", is_train & with_cold, capped(pl.lit(0), own), cold_query),
        task("both_cold", is_test & with_cold, capped(q, rank), cold_query),
    ]
    return parts


def draw_negatives(
    split: pl.DataFrame,
    log: pl.DataFrame,
    tokens: pl.Series,
    is_cold_item: NDArray[np.bool_],
    config: DataConfig,
) -> pl.DataFrame:
    """The same tasks, with items that their users have not met in ``log`` as rows of label 0.

    ``data.negatives`` candidates for each row, drawn evenly from the catalogue's ``tokens``, from
    the held-out items where the query is of those; fewer where a candidate is met or drawn twice,
    or kept back for the query of a warm user.
    """
    pools = [np.flatnonzero(is_cold_item == is_cold) for is_cold in (False, True)]
    of_cold = pl.col("part").is_in(["item_cold", "both_cold"]) & (pl.col("role") == "query")
    is_cold = split.select(of_cold).to_series().to_numpy()
    pair = split["part"] + "/" + split["user"] + "/" + tokens[split["item"]]
    drawn = []
    for number in range(config.negatives):
        place = uniform_hash(pair, config.seed, f"negative {number}")
        item = np.zeros(len(split), np.int64)
        for pool, here in zip(pools, (~is_cold, is_cold), strict=True):
            if here.any():
                item[here] = pool[(place[here] * len(pool)).astype(np.int64)]
        drawn.append(split.with_columns(item=pl.Series(item).cast(pl.Int32), rating=pl.lit(0.0)))
    negatives = (
        pl.concat(drawn)
        .unique(["part", "user", "item"], keep="first", maintain_order=True)
        .join(log.select("user", "item"), on=["user", "item"], how="anti", maintain_order="left")
    )
    kept_back = negatives.filter(part="warm", role="query").select("user", "item", is_kept=True)
    negatives = negatives.join(
        kept_back, on=["user", "item"], how="left", maintain_order="left"
    ).filter(pl.col("is_kept").is_null() | (pl.col("part") != "train"))
    return pl.concat([split, negatives.select(split.columns)])


def read_split(path: str, work: Path) -> pl.DataFrame:
    """A split file: ``part``, ``user``, ``role``, ``item`` (tokens), ``line``; all lines valid.

    Raises ``InputError`` on the first line that is not; a split is a statement, not a log.
    """
    frame = scan_text(path, TextFormat("\t"), work)
    found = frame.collect_schema().names()[:-4]
    expected = ["part", "user_id", "role", "item_id"]
    require(found == expected, f"{path} has columns {found}; a split file has {expected}")
    split = frame.collect()
    name = Path(path).name
    parts = [*PARTS, "test"]
    checks = [
        (pl.col("reason").is_not_null(), "is malformed: {reason}"),
        (~pl.col("part").is_in(parts), "has part '{part}'; expected one of " + ", ".join(parts)),
        (~pl.col("role").is_in(ROLES), "has role '{role}'; expected support or query"),
        (
            pl.struct("part", "user_id", "item_id").is_duplicated(),
            "repeats user {user_id}, item {item_id} in part {part}; name each once",
        ),
    ]
    for is_bad, message in checks:
        bad = split.filter(is_bad)
        if len(bad):
            row = bad.row(0, named=True)
            raise InputError(f"{name}, line {row['line']} " + message.format(**row))
    train = split.filter(part="train")
    for role in ROLES:
        require(
            role in train["role"],
            f"{path} names no {role} row of part train; training users need both roles",
        )
    cold = split.filter(pl.col("part").is_in(["valid", "test", "user_cold", "both_cold"]))
    both = cold.filter(pl.col("user_id").is_in(train["user_id"].implode()))
    if len(both):
        row = both.row(0, named=True)
        raise InputError(
            f"{name}, line {row['line']} puts user {row['user_id']} in part {row['part']}, who is "
            "a training user too; a cold user may not be trained on"
        )
    _refuse_trained(split, name)
    part = pl.when(pl.col("part") == "test").then(pl.lit("user_cold")).otherwise(pl.col("part"))
    return split.select(part=part, user="user_id", role="role", item="item_id", line="line")


def _refuse_trained(split: pl.DataFrame, name: str) -> None:
    """Raises ``InputError`` where training would see a warm query, or an item of a cold one."""
    train, is_query = pl.col("part") == "train", pl.col("role") == "query"
    for parts, key, what in (
        (["warm"], ["user_id", "item_id"], "interaction"),
        (["item_cold", "both_cold"], ["item_id"], "item"),
    ):
        asked = split.filter(pl.col("part").is_in(parts) & is_query)
        seen = asked.join(split.filter(train).select(key).unique(), on=key, how="semi")
        if len(seen):
            row = seen.row(0, named=True)
            raise InputError(
                f"{name}, line {row['line']} asks for item {row['item_id']} of user "
                f"{row['user_id']} in part {row['part']}, and part train has that {what}; what is "
                "asked for may not be trained on"
            )
