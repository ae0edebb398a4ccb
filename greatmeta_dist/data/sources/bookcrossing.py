"""Book-Crossing as downloaded: CSV with ``;``, quotes, backslashes, in Latin-1."""

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
from greatmeta_dist.data.text import TextFormat, scan_text

RATINGS, USERS, BOOKS = "BX-Book-Ratings.csv", "BX-Users.csv", "BX-Books.csv"

BOOK_COLUMNS = ("ISBN", "Book-Author", "Year-Of-Publication", "Publisher")


def open_bookcrossing(config: DataConfig, work: Path) -> Source:
    """Open the folder ``data.path`` with the three ``BX-`` files; the log has no times."""
    folder = local_folder(config)
    fmt = TextFormat(";", is_quoted=True, is_escaped=True, encoding="latin-1")
    log, users, items = (scan_text(f"{folder}/{n}", fmt, work) for n in (RATINGS, USERS, BOOKS))
    require_columns(log, RATINGS, ("User-ID", "ISBN", "Book-Rating"))
    require_columns(users, USERS, ("User-ID", "Location", "Age"))
    require_columns(items, BOOKS, BOOK_COLUMNS)
    age = pl.col("Age").cast(pl.Float64, strict=False)
    # Ages of 0 or 239 were typed to get past the form; they are as good as missing.
    decade = pl.when(age.is_between(5, 105)).then((age // 10 * 10).cast(pl.Int64).cast(pl.String))
    country = pl.col("Location").str.split(",").list.last().str.strip_chars().str.to_lowercase()
    year = pl.when(pl.col("Year-Of-Publication") != "0").then(pl.col("Year-Of-Publication"))
    return Source(
        interactions_of(log, {"user": "User-ID", "item": "ISBN", "rating": "Book-Rating"}),
        has_timestamp=False,
        users=entity_table(
            users.with_columns(decade.alias("age_decade"), country.alias("country")),
            "User-ID",
            [single_value("age_decade"), single_value("country")],
            {"age_decade": "token", "country": "token"},
        ),
        items=entity_table(
            items.with_columns(year.alias("year")),
            "ISBN",
            [
                single_value("Book-Author").alias("author"),
                single_value("year"),
                single_value("Publisher").alias("publisher"),
            ],
            {"author": "token", "year": "token", "publisher": "token"},
        ),
        files=tuple(Path(folder, n) for n in (RATINGS, USERS, BOOKS)),
        not_used={BOOKS: [c for c in file_columns(items) if c not in BOOK_COLUMNS]},
    )
