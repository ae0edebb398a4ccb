"""A given split: a TSV file ``part user_id role item_id``, a line for each interaction used."""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from greatmeta_dist.data.left_out import NOT_IN_SPLIT, LeftOut
from greatmeta_dist.data.sources.base import file_columns
from greatmeta_dist.data.split import ROLES, SPLITS, Catalogue, History, SplitRows, SplitTasks
from greatmeta_dist.data.text import TextFormat, scan_text
from greatmeta_dist.errors import InputError, require

COLUMNS = ["part", "user_id", "role", "item_id"]
NAMES = (*SPLITS, "test")
"""What ``part`` may be; ``test`` is another name of ``user_cold``."""


def read_split(path: str, work: Path) -> pl.DataFrame:
    """Read a split file: ``split``, ``user``, ``role``, ``item`` (tokens), ``line``.

    Raises ``InputError`` on the first bad line, where a log's would be rejected and counted: a
    split file is written on purpose, so a wrong line in it means that the split is not the one
    meant.
    """
    frame = scan_text(path, TextFormat("\t"), work)
    columns = file_columns(frame)
    require(columns == COLUMNS, f"{path} has columns {columns}; a split file has {COLUMNS}")
    split = frame.collect()
    name = Path(path).name
    _require_valid_lines(split, name)
    for role in ROLES:
        require(
            role in split.filter(part="train")["role"],
            f"{path} names no {role} row of part train; training users need both roles",
        )
    _require_cold_users(split, name)
    _require_untrained_queries(split, name)
    name_of_split = pl.col("part").replace({"test": "user_cold"})
    return split.select("role", "line", split=name_of_split, user="user_id", item="item_id")


def _require_valid_lines(split: pl.DataFrame, name: str) -> None:
    checks = [
        (pl.col("reason").is_not_null(), "is malformed: {reason}"),
        (~pl.col("part").is_in(NAMES), "has part '{part}'; expected one of " + ", ".join(NAMES)),
        (~pl.col("role").is_in(ROLES), "has role '{role}'; expected support or query"),
        (
            pl.struct("part", "user_id", "item_id").is_duplicated(),
            "repeats user {user_id}, item {item_id} in part {part}; name each once",
        ),
    ]
    for is_bad, message in checks:
        _refuse(split.filter(is_bad), name, message)


def _require_cold_users(split: pl.DataFrame, name: str) -> None:
    """Refuse training users in a split of users who are not trained on."""
    trained = split.filter(part="train")["user_id"]
    cold = pl.col("part").is_in(["valid", "test", "user_cold", "both_cold"])
    _refuse(
        split.filter(cold).filter(pl.col("user_id").is_in(trained.implode())),
        name,
        "puts user {user_id} in part {part}, who is a training user too; a cold user may not be "
        "trained on",
    )


def _require_untrained_queries(split: pl.DataFrame, name: str) -> None:
    """Refuse a warm query that training has, and a query of cold items that training has."""
    is_train, is_query = pl.col("part") == "train", pl.col("role") == "query"
    for parts, key, what in (
        (["warm"], ["user_id", "item_id"], "interaction"),
        (["item_cold", "both_cold"], ["item_id"], "item"),
    ):
        asked = split.filter(pl.col("part").is_in(parts) & is_query)
        trained = split.filter(is_train).select(key).unique()
        _refuse(
            asked.join(trained, on=key, how="semi"),
            name,
            "asks for item {item_id} of user {user_id} in part {part}, and part train has that "
            + what
            + "; what is asked for may not be trained on",
        )


def _refuse(bad: pl.DataFrame, name: str, message: str) -> None:
    """Raise ``InputError`` on the first of the bad lines, if there are any."""
    if len(bad):
        row = bad.row(0, named=True)
        raise InputError(f"{name}, line {row['line']} " + message.format(**row))


def split_as_given(
    history: History, catalogue: Catalogue, given: pl.DataFrame
) -> tuple[SplitTasks, pl.Series]:
    """The tasks that a split file names, of a bucket's users; and the lines of it that were used.

    Rows of a task stand as the file has them.
    """
    items = pl.DataFrame({"item": catalogue.token, "index": np.arange(len(catalogue.token))})
    users = pl.DataFrame({"user": history.token, "number": np.arange(history.num_users)})
    named = given.join(users, on="user").join(items, on="item")
    interactions = pl.DataFrame(
        {
            "number": history.user,
            "index": history.item.astype(np.int64),
            "row": np.arange(len(history.user)),
        }
    )
    used = named.join(interactions, on=["number", "index"]).sort("number", "line")
    splits = {}
    for split in SPLITS:
        rows = used.filter(split=split)
        is_query = (rows["role"] == "query").to_numpy()
        splits[split] = SplitRows.of(history, rows["row"].to_numpy(), is_query)
    return SplitTasks(history, splits, _not_named(history, used["row"].to_numpy())), used["line"]


def _not_named(history: History, used_rows: NDArray[np.int64]) -> LeftOut:
    """The users and the interactions that a split file does not name."""
    is_used = np.zeros(len(history.user), bool)
    is_used[used_rows] = True
    is_named = history.count(is_used) > 0
    rule = np.where(is_named, "", NOT_IN_SPLIT)
    left_out = LeftOut.of_users(rule, np.bincount(history.user, minlength=history.num_users))
    left_out.unused[NOT_IN_SPLIT] = int((~is_used & is_named[history.user]).sum())
    return left_out
