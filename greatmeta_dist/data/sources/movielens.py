"""MovieLens as downloaded: 100K (``u.data``), 1M and 10M (``.dat``), and CSV (20M to latest)."""

from pathlib import Path

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.sources.base import (
    Kind,
    Source,
    entity_table,
    interactions_of,
    local_folder,
    require_columns,
    single_value,
)
from greatmeta_dist.data.sources.lists import value_list
from greatmeta_dist.data.text import TextFormat, scan_text

LOG_COLUMNS = ("user", "item", "rating", "timestamp")
MOVIE_FEATURES: dict[str, Kind] = {
    "title": "token_list",
    "release_year": "token",
    "genres": "token_list",
}
ML100K_GENRES = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
"""What the last columns of ``u.item`` stand for, in order: 1 where a film is of that genre."""

NO_GENRES = "(no genres listed)"


def open_movielens_100k(config: DataConfig, work: Path) -> Source:
    """Open the folder ``data.path`` with ``u.data``, ``u.user`` and ``u.item``."""
    folder = local_folder(config)
    log = scan_text(f"{folder}/u.data", TextFormat("\t", LOG_COLUMNS), work)
    # Names that end in _ are of columns that are read, and are no features under that name.
    user_columns = ("id_", "age", "gender", "occupation", "zip_code")
    users = scan_text(f"{folder}/u.user", TextFormat("|", user_columns, encoding="latin-1"), work)
    flags = tuple(f"flag_{k}" for k in range(len(ML100K_GENRES)))
    item_columns = ("id_", "title_", "date", "video_date", "url", *flags)
    items = scan_text(f"{folder}/u.item", TextFormat("|", item_columns, encoding="latin-1"), work)
    genres = pl.concat_list(
        [
            pl.when(pl.col(f) == "1").then(pl.lit(g))
            for f, g in zip(flags, ML100K_GENRES, strict=True)
        ]
    ).list.drop_nulls()
    features = user_columns[1:]
    return Source(
        interactions_of(log, {n: n for n in LOG_COLUMNS}),
        has_timestamp=True,
        users=entity_table(
            users, "id_", [single_value(n) for n in features], dict.fromkeys(features, "token")
        ),
        items=entity_table(
            items, "id_", [*_title_and_year("title_"), genres.alias("genres")], MOVIE_FEATURES
        ),
        files=tuple(Path(folder, n) for n in ("u.data", "u.user", "u.item")),
        not_used={"u.item": ["release date", "video release date", "IMDb URL"]},
    )


def open_movielens_1m(config: DataConfig, work: Path) -> Source:
    """Open the folder ``data.path`` with ``ratings.dat``, ``users.dat`` and ``movies.dat``."""
    folder = local_folder(config)

    def scan(name: str, columns: tuple[str, ...]) -> pl.LazyFrame:
        return scan_text(f"{folder}/{name}", TextFormat("::", columns, encoding="latin-1"), work)

    user_columns = ("id_", "gender", "age", "occupation", "zip_code")
    log = scan("ratings.dat", LOG_COLUMNS)
    users = scan("users.dat", user_columns)
    items = scan("movies.dat", ("id_", "title_", "genres"))
    features = user_columns[1:]
    return Source(
        interactions_of(log, {n: n for n in LOG_COLUMNS}),
        has_timestamp=True,
        users=entity_table(
            users, "id_", [single_value(n) for n in features], dict.fromkeys(features, "token")
        ),
        items=entity_table(
            items, "id_", [*_title_and_year("title_"), value_list("genres", "|")], MOVIE_FEATURES
        ),
        files=tuple(Path(folder, n) for n in ("ratings.dat", "users.dat", "movies.dat")),
    )


def open_movielens_10m(config: DataConfig, work: Path) -> Source:
    """Open the folder ``data.path`` with ``ratings.dat`` and ``movies.dat``; no users' file."""
    folder = local_folder(config)
    log = scan_text(f"{folder}/ratings.dat", TextFormat("::", LOG_COLUMNS), work)
    items = scan_text(f"{folder}/movies.dat", TextFormat("::", ("id_", "title_", "genres")), work)
    genres = pl.when(pl.col("genres") != NO_GENRES).then(pl.col("genres")).alias("genres")
    return Source(
        interactions_of(log, {n: n for n in LOG_COLUMNS}),
        has_timestamp=True,
        users=None,
        items=entity_table(
            items.with_columns(genres),
            "id_",
            [*_title_and_year("title_"), value_list("genres", "|")],
            MOVIE_FEATURES,
        ),
        files=tuple(Path(folder, n) for n in ("ratings.dat", "movies.dat")),
    )


def open_movielens_csv(config: DataConfig, work: Path) -> Source:
    """Open the folder ``data.path`` with ``ratings.csv`` and ``movies.csv``; no users' file."""
    folder = local_folder(config)
    fmt = TextFormat(",", is_quoted=True)
    log = scan_text(f"{folder}/ratings.csv", fmt, work)
    items = scan_text(f"{folder}/movies.csv", fmt, work)
    require_columns(log, f"{folder}/ratings.csv", ("userId", "movieId", "rating"))
    require_columns(items, f"{folder}/movies.csv", ("movieId", "title", "genres"))
    genres = pl.when(pl.col("genres") != NO_GENRES).then(pl.col("genres"))
    return Source(
        interactions_of(
            log,
            {"user": "userId", "item": "movieId", "rating": "rating", "timestamp": "timestamp"},
        ),
        has_timestamp=True,
        users=None,
        items=entity_table(
            items.with_columns(genres.alias("genres")),
            "movieId",
            [*_title_and_year("title"), value_list("genres", "|")],
            MOVIE_FEATURES,
        ),
        files=tuple(Path(folder, n) for n in ("ratings.csv", "movies.csv")),
    )


def _title_and_year(title: str) -> list[pl.Expr]:
    """'Toy Story (1995)' → its words in lower case, and the year."""
    year = pl.col(title).str.extract(r"\((\d{4})[^)]*\)\s*$", 1)
    bare = pl.col(title).str.replace(r"\s*\(\d{4}[^)]*\)\s*$", "").str.to_lowercase()
    words = bare.str.extract_all(r"[\p{L}\p{N}']+").list.unique(maintain_order=True)
    return [words.alias("title"), year.alias("release_year")]
