"""Items that users have not met, drawn as rows of label 0, for logs that hold clicks alone."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.split import uniform_hash


def draw_negatives(
    split: pl.DataFrame,
    log: pl.DataFrame,
    tokens: pl.Series,
    is_cold_item: NDArray[np.bool_],
    config: DataConfig,
) -> pl.DataFrame:
    """The tasks of ``split`` with negatives: items that the user does not have in ``log``.

    Takes tasks' rows as ``split_by_recipe`` returns them, the whole history of their users, and of
    the catalogue the tokens [items] and which are cold [items]. For each row ``data.negatives``
    candidates are drawn evenly from the items: from the cold ones where the row is of a query of
    cold items, from the others elsewhere. Candidates that the user met, that come twice in a task,
    or that training may not have are dropped, so a row may get fewer.
    """
    negatives = (
        pl.concat(_candidates(split, tokens, is_cold_item, config))
        .unique(["part", "user", "item"], keep="first", maintain_order=True)
        .join(log.select("user", "item"), on=["user", "item"], how="anti", maintain_order="left")
    )
    return pl.concat([split, _without_warm_queries(negatives).select(split.columns)])


def _candidates(
    split: pl.DataFrame, tokens: pl.Series, is_cold_item: NDArray[np.bool_], config: DataConfig
) -> list[pl.DataFrame]:
    """``data.negatives`` frames: the rows of ``split``, each with another item and label 0."""
    asks_cold = pl.col("part").is_in(["item_cold", "both_cold"]) & (pl.col("role") == "query")
    row_is_cold = split.select(asks_cold).to_series().to_numpy()
    pools = [
        (~row_is_cold, np.flatnonzero(~is_cold_item)),
        (row_is_cold, np.flatnonzero(is_cold_item)),
    ]
    # A row's draws are a hash of the row, so they do not depend on the bucket it is in.
    row_token = split["part"] + "/" + split["user"] + "/" + tokens[split["item"]]
    candidates = []
    for number in range(config.negatives):
        draw = uniform_hash(row_token, config.seed, f"negative {number}")
        item = np.zeros(len(split), np.int64)
        for rows, pool in pools:
            if rows.any():
                item[rows] = pool[(draw[rows] * len(pool)).astype(np.int64)]
        candidates.append(
            split.with_columns(item=pl.Series(item).cast(pl.Int32), rating=pl.lit(0.0))
        )
    return candidates


def _without_warm_queries(negatives: pl.DataFrame) -> pl.DataFrame:
    """Negatives without the training rows of what a warm query asks the same user for.

    Otherwise the warm scenario would ask for rows whose label was trained on.
    """
    asked = negatives.filter(part="warm", role="query").select("user", "item", is_asked=True)
    return negatives.join(asked, on=["user", "item"], how="left", maintain_order="left").filter(
        pl.col("is_asked").is_null() | (pl.col("part") != "train")
    )
