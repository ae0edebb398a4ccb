"""Split interactions → record batches of tasks and items."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from greatmeta_dist.data.arrow import list_array
from greatmeta_dist.data.counts import TrainingCounts
from greatmeta_dist.data.split import History, SplitRows
from greatmeta_dist.data.vocabulary import Vocabulary
from greatmeta_dist.ragged import Ragged, offsets_of


def encode_tasks(history: History, rows: SplitRows) -> pa.RecordBatch:
    """One split's tasks of a bucket: ``user``, and items and ratings of support and query."""
    is_first = np.ones(len(rows), bool)
    is_first[1:] = rows.user[1:] != rows.user[:-1]
    task = np.cumsum(is_first) - 1
    users = history.token.gather(rows.user[is_first])
    columns: dict[str, pa.Array] = {"user": users.to_arrow().cast(pa.string())}
    for role, is_chosen in (("support", ~rows.is_query), ("query", rows.is_query)):
        offsets = offsets_of(np.bincount(task[is_chosen], minlength=len(users)))
        item = Ragged(rows.item[is_chosen], offsets)
        rating = Ragged(rows.rating[is_chosen].astype(np.float32), offsets)
        columns[f"{role}_item"] = list_array(item, pa.int32())
        columns[f"{role}_rating"] = list_array(rating, pa.float32())
    return pa.RecordBatch.from_pydict(columns)


def with_user_features(
    batch: pa.RecordBatch,
    users: pl.DataFrame | None,
    vocabularies: Sequence[Vocabulary],
    known_group: pl.Series | None,
) -> pa.RecordBatch:
    """Tasks with the embedding rows of their users' features, and their known groups.

    ``users`` has every user's features by ``id``; ``known_group`` is that of each row of it.
    """
    if users is None:
        return batch
    if known_group is not None:
        users = users.with_columns(known_group=known_group)
    tokens = pl.from_arrow(batch.column("user")).alias("id").to_frame()  # type: ignore[union-attr]
    rows = tokens.join(users, on="id", how="left", maintain_order="left")
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for v in vocabularies:
        if v.field.side == "user":
            name = f"feature:{v.field.name}"
            columns[name] = list_array(v.encode(rows[v.field.name]), pa.int32())
    if known_group is not None:
        columns["known_group"] = pa.array(rows["known_group"].to_numpy(), pa.int32())
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
