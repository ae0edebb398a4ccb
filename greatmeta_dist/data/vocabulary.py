"""Feature values → rows of one shared embedding space.

All fields' rows are shuffled into one row space, so that contiguous blocks of rows are balanced
(DESIGN.md section 4). Values that training has not seen, or has seen at too few users or items,
share their field's unknown row: a value that one user alone has would be learnt as that user's
name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from greatmeta_dist.data.manifest import ITEM_ID, Field
from greatmeta_dist.data.sources import Kind
from greatmeta_dist.ragged import Ragged, offsets_of

NUM_BINS = 32
"""Most quantile bins of a numeric feature."""
BIN = "bin_"
"""Prefix of a bin's token, before its number."""
MAX_UNORDERED_SHARE = 0.1
"""Largest share of values that are no numbers for the values of a field to have an order."""


@dataclass(frozen=True)
class Vocabulary:
    """One field's values and their embedding rows."""

    field: Field
    values: pl.Series
    """Distinct values seen in training, most frequent first."""
    counts: NDArray[np.int64]
    """[values] training users, or rated items, of each value."""
    rows: NDArray[np.int32]
    """[values + 1] each value's embedding row, and the unknown row last. Rare values have the
    unknown row, too."""

    @property
    def num_frequent(self) -> int:
        """Number of values with a row of their own: the first ones."""
        return self.field.num_rows - 1

    @property
    def num_rare(self) -> int:
        """Number of values that share the unknown row."""
        return len(self.values) - self.num_frequent

    def codes(self, column: pl.Series) -> Ragged:
        """Each entity's values as indices into ``values``, or ``len(values)`` where unknown.

        An entity with no value has one code, that of an unknown value.
        """
        lookup = pl.DataFrame({"value": self.values, "code": np.arange(len(self.values))})
        frame = pl.DataFrame({"entity": np.arange(len(column)), "value": column})
        if self.field.is_list:
            frame = frame.explode("value", empty_as_null=True, keep_nulls=True)
        code = (
            frame.join(lookup, on="value", how="left", maintain_order="left")["code"]
            .fill_null(len(self.values))
            .to_numpy()
        )
        lengths = np.bincount(frame["entity"].to_numpy(), minlength=len(column))
        return Ragged(code, offsets_of(lengths))

    def encode(self, column: pl.Series) -> Ragged:
        """Embedding rows of each entity's values, by the indices that ``codes`` returns."""
        codes = self.codes(column)
        return Ragged(self.rows[codes.values], codes.offsets)

    def numbers(self, column: pl.Series) -> NDArray[np.float64] | None:
        """[entities] each value as a number, nan where it is none; None if values have no order.

        Values have an order where nearly all of them are numbers, or bins of numbers.
        """
        if self.field.is_list:
            return None
        known, numbers = (
            values.cast(pl.String).str.strip_prefix(BIN).cast(pl.Float64, strict=False)
            for values in (self.values, column)
        )
        if not len(known) or known.null_count() > MAX_UNORDERED_SHARE * len(known):
            return None
        return numbers.fill_null(np.nan).to_numpy()

    def write(self, folder: Path) -> None:
        """Write ``<field>.parquet`` into a folder; the unknown row is last, with value null."""
        columns = {
            "value": [*self.values.to_list(), None],
            "row": self.rows,
            "count": np.append(self.counts, 0),
        }
        pq.write_table(pa.table(columns), folder / f"{self.field.name}.parquet")


def read_vocabularies(folder: Path, fields: Sequence[Field]) -> list[Vocabulary]:
    """The vocabularies of some fields, as they stand in the folder of a store."""
    vocabularies = []
    for field in fields:
        table = pq.read_table(folder / "vocab" / f"{field.name}.parquet")
        values = pl.Series("value", table["value"].to_pylist()[:-1], dtype=pl.String)
        counts, rows = table["count"].to_numpy()[:-1], table["row"].to_numpy()
        vocabularies.append(Vocabulary(field, values, counts, rows))
    return vocabularies


def bin_edges(values: pl.Series, *, min_count: int) -> NDArray[np.float64]:
    """Inner edges [bins − 1 or fewer] of a numeric feature's quantile bins.

    There are as many bins, up to ``NUM_BINS``, as get 2 ``min_count`` numbers each: with repeated
    numbers bins differ in size, and those below ``min_count`` have no row of their own.
    """
    numbers = values.cast(pl.Float64, strict=False).drop_nulls().to_numpy()
    if not len(numbers):
        return np.empty(0)
    num_bins = min(NUM_BINS, max(1, len(numbers) // (2 * min_count)))
    return np.unique(np.quantile(numbers, np.linspace(0, 1, num_bins + 1)[1:-1]))


def binned(values: pl.Series, edges: NDArray[np.float64]) -> pl.Series:
    """A numeric feature as tokens of bins; null where it is no number."""
    numbers = values.cast(pl.Float64, strict=False)
    bins = np.searchsorted(edges, numbers.fill_null(0).to_numpy(), side="right")
    tokens = pl.Series(bins).cast(pl.String)
    return pl.select(pl.when(numbers.is_not_null()).then(BIN + tokens)).to_series()


def bin_token(number: float, edges: NDArray[np.float64]) -> str:
    """The token of the bin of one number."""
    return BIN + str(int(np.searchsorted(edges, number, side="right")))


def count_values(frame: pl.DataFrame, kinds: Mapping[str, Kind]) -> dict[str, pl.DataFrame]:
    """How many entities have each value of each feature: ``value``, ``count`` by feature."""
    counts = {}
    for name, kind in kinds.items():
        values = frame.select(value=name)
        if kind == "token_list":
            values = values.explode("value", empty_as_null=True, keep_nulls=True)
        counts[name] = values.drop_nulls().group_by("value").len("count")
    return counts


def build_vocabularies(
    counted: Sequence[tuple[str, str, Kind, pl.DataFrame]], *, min_count: int, seed: int
) -> list[Vocabulary]:
    """Give each value of each field its embedding row.

    ``counted`` has each field's name, side (``user`` or ``item``), kind and frame of ``value`` and
    ``count``. Values with a count below ``min_count`` share the unknown row. Items' ids are
    exempt: an item's own row is what ratings of it train, however few.
    """
    # Ties are broken by value, so that rows do not depend on the order of a group-by.
    ordered = [c.sort(["count", "value"], descending=[True, False]) for *_, c in counted]
    min_counts = [1 if name == ITEM_ID else min_count for name, *_ in counted]
    frequent = [int((c["count"] >= n).sum()) for c, n in zip(ordered, min_counts, strict=True)]
    total = sum(frequent) + len(frequent)
    # [rows of all fields] each field takes the next ``num + 1`` of one shuffled order, the last of
    # them as its unknown row.
    shuffled = np.random.default_rng([seed, 3]).permutation(total).astype(np.int32)
    vocabularies, start = [], 0
    for (name, side, kind, _), values, num in zip(counted, ordered, frequent, strict=True):
        frequent_rows, unknown = shuffled[start : start + num], shuffled[start + num]
        rows = np.append(frequent_rows, np.repeat(unknown, len(values) - num + 1))
        field = Field(name, side, kind == "token_list", num + 1, int(unknown))
        count = values["count"].to_numpy().astype(np.int64)
        vocabularies.append(Vocabulary(field, values["value"], count, rows))
        start += num + 1
    return vocabularies


def grow_vocabularies(
    counted: Sequence[tuple[str, str, Kind, pl.DataFrame]],
    earlier: Mapping[str, Vocabulary],
    *,
    min_count: int,
    seed: int,
) -> list[Vocabulary]:
    """As ``build_vocabularies``, for a store that grows: a value that has a row keeps it.

    Such values come first, as they were. Values that are now frequent get rows behind all earlier
    ones, shuffled among themselves.
    """
    ordered = []
    for name, _, _, counts in counted:
        vocabulary = earlier[name]
        kept = vocabulary.values.head(vocabulary.num_frequent).to_frame("value")
        counts = counts.with_columns(pl.col("count").cast(pl.Int64))
        kept = kept.join(counts, on="value", how="left", maintain_order="left")
        others = counts.join(kept, on="value", how="anti")
        others = others.sort(["count", "value"], descending=[True, False])
        least = 1 if name == ITEM_ID else min_count
        num_new = int((others["count"] >= least).sum())
        ordered.append((pl.concat([kept.fill_null(0), others]), num_new))
    first = sum(vocabulary.field.num_rows for vocabulary in earlier.values())
    total = sum(num_new for _, num_new in ordered)
    shuffled = first + np.random.default_rng([seed, 3, first]).permutation(total).astype(np.int32)
    vocabularies, start = [], 0
    for (name, *_), (values, num_new) in zip(counted, ordered, strict=True):
        vocabulary = earlier[name]
        num_kept, unknown = vocabulary.num_frequent, vocabulary.field.unknown_row
        num_rare = len(values) - num_kept - num_new
        new_rows = shuffled[start : start + num_new]
        rows = np.concatenate(
            (vocabulary.rows[:num_kept], new_rows, np.full(num_rare + 1, unknown, np.int32))
        ).astype(np.int32)
        field = replace(vocabulary.field, num_rows=num_kept + num_new + 1)
        vocabularies.append(Vocabulary(field, values["value"], values["count"].to_numpy(), rows))
        start += num_new
    return vocabularies
