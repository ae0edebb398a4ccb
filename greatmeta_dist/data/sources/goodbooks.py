"""goodbooks-10k as downloaded, from GitHub or from Kaggle."""

from pathlib import Path

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.sources.base import (
    Source,
    entity_table,
    file_columns,
    interactions_of,
    local_folder,
    require_columns,
    single_value,
)
from greatmeta_dist.data.sources.lists import value_list
from greatmeta_dist.data.text import TextFormat, scan_text

RATINGS, BOOKS = "ratings.csv", "books.csv"
YEAR = "original_publication_year"


def open_goodbooks(config: DataConfig, work: Path) -> Source:
    """Open the folder ``data.path`` with ``ratings.csv`` and ``books.csv``; the log has no times.

    Kaggle's ``books.csv`` calls ``id`` what the ratings call ``book_id``, and has another number
    under that name.
    """
    folder, fmt = local_folder(config), TextFormat(",", is_quoted=True)
    log = scan_text(f"{folder}/{RATINGS}", fmt, work)
    books = scan_text(f"{folder}/{BOOKS}", fmt, work)
    require_columns(log, RATINGS, ("user_id", "book_id", "rating"))
    require_columns(books, BOOKS, ("book_id", "authors", YEAR, "language_code"))
    id_column = "id" if "id" in books.collect_schema().names() else "book_id"
    used = (id_column, "authors", YEAR, "language_code")
    unused = [c for c in file_columns(books) if c not in used]
    # Years are written as floats, because some are missing.
    year = pl.col(YEAR).str.replace(r"\.0$", "")
    return Source(
        interactions_of(log, {"user": "user_id", "item": "book_id", "rating": "rating"}),
        has_timestamp=False,
        users=None,
        items=entity_table(
            books.rename({id_column: "book"}).with_columns(year.alias("year")),
            "book",
            [
                value_list("authors", ","),
                single_value("year"),
                single_value("language_code").alias("language"),
            ],
            {"authors": "token_list", "year": "float", "language": "token"},
        ),
        files=(Path(folder, RATINGS), Path(folder, BOOKS)),
        not_used={BOOKS: unused},
    )
