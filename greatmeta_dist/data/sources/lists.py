"""Lists of values in one field of text: split at a separator, or in brackets."""

import ast
import json
from collections.abc import Sequence

import polars as pl

from greatmeta_dist.config.data import MISSING_VALUES
from greatmeta_dist.data.text import is_missing

QUOTED = r"""[ub]?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
"""A value in quotes, as Python and JSON write it; ``u`` and ``b`` stand before it in old Python."""
BARE = r"""[^\[\](){}'",\s][^\[\]{}",]*"""
VALUE = rf"{QUOTED}|{BARE}"
LIST = rf"^\[\s*(?:(?:{VALUE})(?:\s*,\s*(?:{VALUE})|\s+{QUOTED})*\s*,?\s*)?\]$"
"""A list in brackets, as Python, JSON and NumPy (which puts no commas) write it."""
TUPLE = (
    rf"^(?:\(\s*{QUOTED}(?:\s*,\s*{QUOTED})*\s*,?\s*\)|\{{\s*{QUOTED}(?:\s*,\s*{QUOTED})*\s*\}})$"
)
"""A tuple or a set of Python, of values in quotes: what is in such brackets otherwise is a text."""
NUMBERS = r"^\[\s*[-+]?[\d.]+(?:e[-+]?\d+)?(?:\s+[-+]?[\d.]+(?:e[-+]?\d+)?)+\s*\]$"
"""Numbers as NumPy writes them."""
SPLIT_INSIDE = r"""^\[[^\[\](){}'",]*\]$"""
"""Bare values in brackets without a comma: the separator may stand between them."""
STARTS_LIKE_A_LIST = r"""^(?:\[\s*[ub]?['"\[{(]|[({]\s*['"]|(?:array|set|frozenset|tuple|list)\()"""


def value_list(column: str, separator: str, missing: Sequence[str] = MISSING_VALUES) -> pl.Expr:
    """A ``token_list`` feature of text: distinct stripped values in order.

    Values are split at the separator, or stand in brackets, as in ``['drama', 'noir']``. Empty
    where there are none.
    """
    text = pl.col(column).fill_null("").str.strip_chars()
    inside = text.str.strip_chars("[]").str.strip_chars()
    is_list = text.str.contains(LIST) | text.str.contains(TUPLE)
    # Escapes such as \u00e9 are rare, and no pattern can read them.
    escaped = pl.when(is_list & text.str.contains(r"\\")).then(text)
    is_split_inside = text.str.contains(SPLIT_INSIDE) & text.str.contains(separator, literal=True)
    values = (
        pl.when(text.str.contains(NUMBERS))
        .then(inside.str.extract_all(r"\S+"))
        .when(is_split_inside)
        .then(inside.str.split(separator))
        .when(is_list)
        .then(
            pl.coalesce(
                escaped.map_elements(_parsed, return_dtype=pl.List(pl.String), skip_nulls=True),
                _in_brackets(text),
            )
        )
        .otherwise(text.str.split(separator))
    )
    return distinct_values(values, missing).alias(column)


def distinct_values(values: pl.Expr, missing: Sequence[str] = MISSING_VALUES) -> pl.Expr:
    """A ``token_list`` feature of lists: distinct stripped values in order."""
    value = pl.element().str.strip_chars()
    known = values.list.eval(value.filter(~is_missing(value, missing)))
    return known.list.unique(maintain_order=True).fill_null(pl.lit([], pl.List(pl.String)))


def is_broken_list(column: str) -> pl.Expr:
    """Whether a text starts as a list of values does, and is none that can be read whole."""
    text = pl.col(column).fill_null("").str.strip_chars()
    is_read = text.str.contains(LIST) | text.str.contains(TUPLE)
    return text.str.contains(STARTS_LIKE_A_LIST) & ~is_read


def _in_brackets(text: pl.Expr) -> pl.Expr:
    bare = pl.element().str.replace(r"""^[ub]?(?:'(.*)'|"(.*)")$""", "$1$2")
    return text.str.extract_all(VALUE).list.eval(bare)


def _parsed(text: str) -> list[str] | None:
    """The values of a list of JSON or Python; None where it is neither."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return [str(value) for value in parse(text)]
        except (ValueError, SyntaxError, TypeError):
            continue
    return None
