"""What callers from Python know of users: ratings in plain types or frames → one form.

Ids are of any kind, as in a log: whole numbers (floats such as 7.0, too) and text.

Shapes: U users, n ratings of all users, user by user.
"""

import math
import numbers
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from greatmeta_dist.data.sources.columns import usual_columns
from greatmeta_dist.data.values import Value, id_value, number_value
from greatmeta_dist.errors import InputError, require, shown
from greatmeta_dist.ragged import offsets_of

Pairs = list[tuple[str, float]]
"""A user's items with their ratings."""
CLICKED = 1.0
"""The rating of an item that is given without one: it was clicked."""


@dataclass(frozen=True)
class KnownRatings:
    """What is known of some users. A user has an item once: of repeats the last one counts."""

    users: list[Any]
    """[U] as the caller names them; ``[None]`` where there is one user without a name."""
    item: list[str]
    """[n] tokens of items, as in a catalogue."""
    rating: NDArray[np.float64]
    """[n]"""
    offsets: NDArray[np.int64]
    """[U + 1] where each user's ratings start."""
    is_rated: bool
    """Whether ratings were given, and not only items."""
    has_text_ids: bool
    """Whether any item was named by a text."""
    frame: Any = None
    """The frame it came in; None where it came in plain types."""
    is_one_user: bool = True


def known_ratings(interactions: Any) -> KnownRatings:
    """One user's ratings, or many users'.

    One user: a mapping of items to ratings, pairs ``(item, rating)``, or items alone (clicks); None
    is nothing. Many: a mapping of users to these. Or a frame (Arrow, Polars, pandas) with a column
    of items, and perhaps of ratings and of users, under usual names. Raises ``InputError``.
    """
    if isinstance(interactions, pl.LazyFrame):
        interactions = interactions.collect()
    if hasattr(interactions, "__arrow_c_stream__"):
        return _of_frame(interactions)
    if isinstance(interactions, Mapping) and any(map(_is_collection, interactions.values())):
        users = list(interactions)
        return _of_users(users, [interactions[user] for user in users], is_one_user=False)
    return _of_users([None], [interactions], is_one_user=True)


def token_of(value: Any) -> str:
    """An id as a catalogue has it. Raises ``InputError`` where the value is no id."""
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise InputError(f"{shown(value)} is no id; expected a text or a whole number")
    require(
        isinstance(value, int) or (math.isfinite(value) and value == math.floor(value)),
        f"{value!r} is no id; expected a text or a whole number",
    )
    return str(math.floor(value))


def named_rows(frame: Any, role: str) -> tuple[list[str], dict[str, list[Any]]]:
    """The ids in a frame's column of ``role`` (``user`` or ``item``), and the other columns.

    Raises ``InputError`` where no column, or more than one, may be it, or where one is no id.
    """
    table = _table_of(frame)
    column = _column(role, table.columns)
    require(
        column is not None,
        f"no column of the frame is the {role}; it has {', '.join(table.columns)}; rename one "
        f"{role}",
    )
    assert column is not None
    _require_plain(table, column)
    value = id_value(column, table.schema[column])
    _require_good(table, role, column, value)
    ids = table.select(value.value.cast(pl.String)).to_series().to_list()
    return ids, {name: table[name].to_list() for name in table.columns if name != column}


def like(frame: Any, columns: dict[str, Any]) -> Any:
    """A frame of the same library as ``frame``, with these columns."""
    table = pa.table(columns)
    library = type(frame).__module__.partition(".")[0]
    if library == "polars":
        return pl.from_arrow(table)
    return table.to_pandas() if library == "pandas" else table


def _of_users(users: list[Any], known: Sequence[Any], *, is_one_user: bool) -> KnownRatings:
    ratings = [_ratings_of(one, user) for one, user in zip(known, users, strict=True)]
    by_item = [dict(pairs) for pairs, _, _ in ratings]
    return KnownRatings(
        users,
        [item for pairs in by_item for item in pairs],
        np.array([rating for pairs in by_item for rating in pairs.values()], np.float64),
        offsets_of(np.array([len(pairs) for pairs in by_item], np.int64)),
        is_rated=all(is_rated for _, is_rated, _ in ratings),
        has_text_ids=any(has_text for _, _, has_text in ratings),
        is_one_user=is_one_user,
    )


def _is_collection(value: Any) -> bool:
    """Whether a value of ``{key: value}`` is what is known of a user, and no rating."""
    is_scalar = isinstance(value, str | bytes) or getattr(value, "ndim", 1) == 0
    return isinstance(value, Iterable) and not is_scalar


def _ratings_of(known: Any, user: Any) -> tuple[Pairs, bool, bool]:
    """Items and ratings of one user; whether ratings were given, and any text for an id."""
    whose = "" if user is None else f" of user {user!r}"
    if isinstance(known, str | bytes) or not (
        known is None or isinstance(known, Mapping | Iterable)
    ):
        raise InputError(
            f"the ratings{whose} are {shown(known)}; expected {{item: rating}}, pairs (item, "
            "rating), items, or a frame"
        )
    require(
        not hasattr(known, "columns"),
        f"the ratings{whose} are a frame; give one frame of all users, with a column user",
    )
    if isinstance(known, np.ndarray):
        known = np.atleast_1d(known).tolist()
    entries = list(known.items() if isinstance(known, Mapping) else () if known is None else known)
    is_rated = all(isinstance(e, tuple | list) and len(e) == 2 for e in entries)
    if not is_rated:
        entries = [(item, CLICKED) for item in entries]
    pairs = [(token_of(item), _number(rating, item, whose)) for item, rating in entries]
    return pairs, is_rated, any(isinstance(item, str) for item, _ in entries)


def _number(rating: Any, item: Any, whose: str) -> float:
    is_number = isinstance(rating, numbers.Real | Decimal) and not isinstance(rating, bool)
    try:
        number = float(rating) if is_number else math.nan
    except OverflowError as error:  # a whole number of hundreds of digits
        raise InputError(f"the rating of {item}{whose} is too large; expected a number") from error
    expected = "expected a finite number"
    require(math.isfinite(number), f"the rating of {item}{whose} is {shown(rating)}; {expected}")
    return number


def _table_of(frame: Any) -> pl.DataFrame:
    """A frame's columns. Raises ``InputError`` where it is one column without a name, where two
    have the same name, or where a column mixes types."""
    try:
        return pl.DataFrame(pl.from_arrow(pa.table(frame)))
    except pl.exceptions.DuplicateError as error:
        raise InputError("two columns of the frame have the same name; rename one") from error
    except (pa.ArrowInvalid, TypeError) as error:
        if hasattr(frame, "columns"):
            reason = "; ".join(" ".join(str(part).split()) for part in error.args)
            raise InputError(
                f"a column of the frame is not of one type ({reason}); make it all text or all "
                "numbers"
            ) from error
        raise InputError(
            f"the ratings are one column ({type(frame).__name__}); expected {{item: rating}}, "
            "pairs (item, rating), items, or a frame; of one column make a list or a mapping"
        ) from error


def _of_frame(frame: Any) -> KnownRatings:
    table = _table_of(frame)
    names = {role: _column(role, table.columns) for role in ("user", "item", "rating")}
    require(
        names["item"] is not None,
        f"no column of the frame is the item; it has {', '.join(table.columns)}; rename one item",
    )
    columns = {role: name for role, name in names.items() if name is not None}
    for name in columns.values():
        _require_plain(table, name)
    is_truth = "rating" in columns and table.schema[columns["rating"]] == pl.Boolean
    require(
        not is_truth,
        f"column {columns.get('rating')} of the frame holds Booleans; expected ratings as numbers",
    )
    _warn_of_one_user(table.columns, columns)
    values = {
        role: (number_value if role == "rating" else id_value)(name, table.schema[name])
        for role, name in columns.items()
    }
    for role, value in values.items():
        _require_good(table, role, columns[role], value)
    typed = table.select(
        pl.lit(None, pl.String).alias("label") if "user" not in columns else
        pl.col(columns["user"]).alias("label"),
        item=values["item"].value.cast(pl.String),
        rating=values["rating"].value if "rating" in values else pl.lit(CLICKED),
    )  # fmt: skip
    first = typed.unique(["label", "item"], keep="last", maintain_order=True)
    users = typed["label"].unique(maintain_order=True).to_list()
    if "user" not in columns:
        users = [None]  # whose frame may be empty
    number = pl.DataFrame({"label": pl.Series(users, dtype=typed["label"].dtype)})
    number = number.with_row_index("number")
    rows = first.join(number, on="label", nulls_equal=True, maintain_order="left")
    rows = rows.sort("number", maintain_order=True)
    lengths = np.bincount(rows["number"].to_numpy(), minlength=len(users))
    return KnownRatings(
        users,
        rows["item"].to_list(),
        rows["rating"].to_numpy().astype(np.float64),
        offsets_of(lengths.astype(np.int64)),
        is_rated="rating" in columns,
        has_text_ids=table.schema[columns["item"]] == pl.String,
        frame=frame,
        is_one_user="user" not in columns,
    )


def _warn_of_one_user(available: list[str], columns: Mapping[str, str]) -> None:
    """Warn where no column is the user and one that is not read may be: rows would mix users."""
    others = [name for name in available if name not in columns.values()]
    others = [name for name in others if not name.startswith("__index_level_")]  # of pandas
    others = [name for name in others if not usual_columns("timestamp", [name])]
    if "user" not in columns and others:
        warnings.warn(
            "no column of the frame is the user, so that all rows count as one user's; if one of "
            f"{', '.join(others)} is, rename it user",
            stacklevel=6,
        )


def _column(role: str, available: list[str]) -> str | None:
    """The column of that role; raises ``InputError`` where several may be it."""
    candidates = usual_columns(role, available)
    require(
        len(candidates) < 2,
        f"columns {', '.join(candidates)} of the frame may all be the {role}; rename one {role}, "
        "and drop the others",
    )
    return candidates[0] if candidates else None


def _require_plain(table: pl.DataFrame, column: str) -> None:
    kind = table.schema[column]
    require(
        not kind.is_nested(),
        f"column {column} of the frame holds {kind}; expected one value in each row",
    )


def _require_good(table: pl.DataFrame, role: str, column: str, value: Value) -> None:
    is_bad = table.select(value.is_missing | value.is_bad).to_series().fill_null(True)
    row = is_bad.arg_max()
    if is_bad.any() and row is not None:
        expected = "a finite number" if role == "rating" else "a text or a whole number"
        raise InputError(
            f"row {row + 1} of the frame has {table[column][row]!r} in column {column}; expected "
            + expected
        )
