"""Split interactions → record batches of tasks and items."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from greatmeta_dist.data.arrow import list_array
from greatmeta_dist.data.counts import TrainingCounts
from greatmeta_dist.data.split import uniform_hash
from greatmeta_dist.data.vocabulary import Vocabulary
from greatmeta_dist.ragged import Ragged, offsets_of


def encode_tasks(
    rows: pl.DataFrame,
    users: pl.DataFrame | None,
    vocabularies: Sequence[Vocabulary],
    known_group: pl.Series | None,
    *,
    seed: int,
) -> pa.RecordBatch:
    """One split's tasks of a bucket, users in an order that their tokens alone decide.

    ``rows`` has ``user role item rating``; ``users`` every user's features by ``id``;
    ``known_group`` the true group of each row of ``users``, where it is known.
    """
    tokens = rows["user"].unique(maintain_order=True)
    order = np.argsort(uniform_hash(tokens, seed, "order"), kind="stable")
    position = pl.DataFrame({"user": tokens[order], "position": np.arange(len(tokens))})
    rows = rows.join(position, on="user", maintain_order="left")
    rows = rows.sort("position", maintain_order=True)
    columns: dict[str, pa.Array] = {"user": pa.array(position["user"].to_list(), pa.string())}
    for role in ("support", "query"):
        chosen = rows.filter(pl.col("role") == role)
        offsets = offsets_of(np.bincount(chosen["position"].to_numpy(), minlength=len(tokens)))
        item = Ragged(chosen["item"].to_numpy(), offsets)
        rating = Ragged(chosen["rating"].to_numpy().astype(np.float32), offsets)
        columns[f"{role}_item"] = list_array(item, pa.int32())
        columns[f"{role}_rating"] = list_array(rating, pa.float32())
    user_rows = position.select(id="user")
    if users is not None:
        if known_group is not None:
            users = users.with_columns(known_group=known_group)
        user_rows = user_rows.join(users, on="id", how="left", maintain_order="left")
    for v in vocabularies:
        if v.field.side == "user":
            name = f"feature:{v.field.name}"
            columns[name] = list_array(v.encode(user_rows[v.field.name]), pa.int32())
    if known_group is not None:
        columns["known_group"] = pa.array(user_rows["known_group"].to_numpy(), pa.int32())
    return pa.RecordBatch.from_pydict(columns)


def encode_items(
    items: pl.DataFrame, vocabularies: Sequence[Vocabulary], counts: TrainingCounts
) -> pa.RecordBatch:
    """The catalogue: tokens, codes of features, and counts of the training users' ratings.

    Codes rather than embedding rows are kept, because rare values share a row and content
    regression tells them apart; and numbers, where a feature's values have an order.
    """
    columns = {
        "item": pa.array(items["id"].to_list(), pa.string()),
        "train_count": pa.array(counts.item_count, pa.int64()),
        "train_sum": pa.array(counts.item_sum, pa.float64()),
        "train_squares": pa.array(counts.item_squares, pa.float64()),
    }
    for v in vocabularies:
        if v.field.side == "item":
            name, column = v.field.name, items[v.field.name]
            columns[f"code:{name}"] = list_array(v.codes(column), pa.int32())
            numbers = v.numbers(column)
            if numbers is not None:
                columns[f"number:{name}"] = pa.array(numbers, pa.float64())
    return pa.RecordBatch.from_pydict(columns)
