"""Users and items: their features checked, and the catalogue of all items."""

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.rejects import Rejects
from greatmeta_dist.data.sources import Table
from greatmeta_dist.data.text import is_missing
from greatmeta_dist.errors import InputError


def read_entities(table: Table, side: str, rejects: Rejects, config: DataConfig) -> pl.DataFrame:
    """Check the features of users or of items (``side``); returns ``id``, one row each, features.

    Rows without an id, and all but the first of an id, are rejected. So is a number that is none,
    but its row stays, with null there. None of it costs a rating. Raises ``InputError`` where no
    row is usable, and past ``data.max_rejected_feature_fraction``.
    """
    frame = table.frame.collect(engine="streaming")
    reason = (
        pl.when(pl.col("reason").is_not_null())
        .then(pl.col("reason"))
        .when(is_missing(pl.col("id")))
        .then(pl.lit(f"no {side} id"))
        .when(pl.col("id").is_first_distinct().not_())
        .then(pl.lit(f"repeats the {side}; the first is kept"))
    )
    frame = frame.with_columns(reason=reason)
    rejects.add(frame.filter(pl.col("reason").is_not_null()), "id", of=f"{side}s")
    good = frame.filter(pl.col("reason").is_null())
    if not len(good):
        first = frame.row(0, named=True) if len(frame) else {"file": "", "reason": "it is empty"}
        raise InputError(
            f"the {side} features {first['file']} hold no usable row: {first['reason']}"
        )
    for name, kind in table.features.items():
        if kind == "float":
            good = _without_bad_numbers(good, name, rejects, of=f"{side}s")
    rejects.require_few(
        len(frame),
        of=f"{side}s",
        option="data.max_rejected_feature_fraction",
        limit=config.max_rejected_feature_fraction,
    )
    return good.drop("file", "line", "reason", "text")


def _without_bad_numbers(
    frame: pl.DataFrame, name: str, rejects: Rejects, *, of: str
) -> pl.DataFrame:
    """The frame with null where a numeric feature is no finite number, which is a reject."""
    number = pl.col(name).cast(pl.Float64, strict=False)
    is_bad = pl.col(name).is_not_null() & ~number.is_finite().fill_null(False)
    bad = frame.filter(is_bad).with_columns(reason=pl.lit(f"{name} is not a number"))
    rejects.add(bad, name, of=of)
    return frame.with_columns(pl.when(is_bad).then(None).otherwise(name).alias(name))


def catalogue_of(
    first: pl.Series, listed: pl.DataFrame | None, in_log: pl.Series
) -> tuple[pl.DataFrame, int]:
    """All items: ``id`` and features; and how many of the log no file of items lists.

    ``first`` are the items of an earlier store, and keep their places. Then come those that files
    list, as there, and at last those that only the log has, by id, without features. ``in_log`` are
    the log's distinct items, integers or text.
    """
    logged = pl.DataFrame({"id": in_log.cast(pl.String)}).sort("id")
    in_files = logged.clear() if listed is None else listed.select("id")
    ids = pl.concat([first.cast(pl.String).to_frame("id"), in_files, logged])
    ids = ids.unique(maintain_order=True)
    if listed is None:
        return ids, 0
    items = ids.join(listed, on="id", how="left", maintain_order="left")
    return items, len(logged.join(listed, on="id", how="anti"))
