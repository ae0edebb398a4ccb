"""The features of users and items, counted among those trained on, get their vocabularies."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.counts import TrainingCounts
from greatmeta_dist.data.growth import EarlierStore
from greatmeta_dist.data.manifest import ITEM_ID
from greatmeta_dist.data.sources import Kind
from greatmeta_dist.data.vocabulary import (
    Vocabulary,
    bin_edges,
    binned,
    build_vocabularies,
    count_values,
    grow_vocabularies,
)
from greatmeta_dist.errors import require

Edges = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Fields:
    """Users and items with their features as tokens, and the vocabularies of these."""

    users: pl.DataFrame | None
    items: pl.DataFrame
    vocabularies: list[Vocabulary]


def build_fields(
    users: pl.DataFrame | None,
    items: pl.DataFrame,
    kinds: Mapping[str, dict[str, Kind]],
    counts: TrainingCounts,
    config: DataConfig,
    earlier: EarlierStore | None,
) -> Fields:
    """Rows for every value that training users and their items have.

    ``kinds`` are the features of ``user`` and ``item``. Raises ``InputError`` where one name is of
    both.
    """
    both = sorted({*kinds["user"]} & {*kinds["item"], ITEM_ID})
    require(
        not both,
        f"{', '.join(both)} is a feature of users and of items; rename one of the two columns",
    )
    edges: Edges = {}
    if earlier is not None:
        fields = earlier.manifest.fields
        edges = {f.name: np.array(f.edges) for f in fields if f.edges is not None}
    counted, least = [], config.min_value_count
    if users is not None:
        is_seen = pl.col("id").is_in(pl.concat(counts.users).implode())
        users, of_users = _count(users, kinds["user"], is_seen, least, edges)
        counted += [(n, "user", kinds["user"][n], c) for n, c in of_users.items()]
    item_kinds: dict[str, Kind] = {ITEM_ID: "token", **kinds["item"]}
    is_seen = pl.lit(pl.Series(counts.item_count > 0))
    items, of_items = _count(
        items.with_columns(pl.col("id").alias(ITEM_ID)), item_kinds, is_seen, least, edges
    )
    counted += [(n, "item", item_kinds[n], c) for n, c in of_items.items()]
    if earlier is None:
        vocabularies = build_vocabularies(counted, min_count=least, seed=config.seed)
    else:
        vocabularies = grow_vocabularies(
            counted, earlier.vocabularies(), min_count=least, seed=config.seed
        )
    return Fields(users, items, [_with_edges(v, edges) for v in vocabularies])


def _with_edges(vocabulary: Vocabulary, edges: Edges) -> Vocabulary:
    """The vocabulary of a numeric feature with the edges of its bins; of others, as it is."""
    found = edges.get(vocabulary.field.name)
    if found is None:
        return vocabulary
    return replace(vocabulary, field=replace(vocabulary.field, edges=found.tolist()))


def _count(
    frame: pl.DataFrame, kinds: dict[str, Kind], is_seen: pl.Expr, min_count: int, edges: Edges
) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    """Bin numeric features, and count every feature's values among the seen entities.

    Edges of bins that ``edges`` lacks are taken from the seen entities, and added to it.
    """
    for name, kind in kinds.items():
        if kind == "float":
            if name not in edges:
                edges[name] = bin_edges(frame.filter(is_seen)[name], min_count=min_count)
            frame = frame.with_columns(binned(frame[name], edges[name]).alias(name))
    return frame, count_values(frame.filter(is_seen), kinds)
