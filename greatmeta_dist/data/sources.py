"""Interaction logs of each supported form → one shape: interactions, users, items, features.

Values are strings until ``prepare`` checks them. Each source returns frames as ``lines`` gives
them (columns, ``file``, ``line``, ``reason``, ``text``).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.synthetic import write_synthetic
from greatmeta_dist.data.text import (
    INTERNAL,
    TextFormat,
    as_utf8,
    is_missing,
    local_copy,
    scan_columns,
    scan_text,
    split_header,
)
from greatmeta_dist.errors import InputError, require

Kind = Literal["token", "token_list", "float"]

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
RESERVED_COLUMNS = (*INTERNAL, "id", "item", "user", "item_id")
"""What the preparation itself calls columns; features have other names."""
RECBOLE_KINDS: dict[str, Kind] = {"token": "token", "token_seq": "token_list", "float": "float"}


@dataclass(frozen=True)
class Table:
    """A file of entities: its ``id`` column, and features (String, or List of String)."""

    frame: pl.LazyFrame
    features: dict[str, Kind]


@dataclass(frozen=True)
class Source:
    """A log, its values unchecked."""

    interactions: pl.LazyFrame
    """``user``, ``item``, ``rating``, ``timestamp`` (null where the log has none)."""
    has_timestamp: bool
    users: Table | None
    items: Table | None
    files: tuple[Path, ...]
    """What the fingerprint is taken of."""
    made: tuple[Path, ...] = ()
    """What was generated, in place of files."""
    group: str | None = None
    """A user column that holds the true preference group, never a feature."""
    notes: dict[str, float] = field(default_factory=dict)
    """Facts for the manifest, such as a known noise floor."""


def open_source(config: DataConfig, work: Path) -> Source:
    """The source a configuration names; ``work`` takes copies. Raises ``InputError``."""
    require(
        config.source == "synthetic" or config.path is not None,
        f"data.path is not set; data={config.source} needs data.path=<where the files are>",
    )
    return READERS[config.source](config, work)


def _clean(column: str) -> pl.Expr:
    """A feature value, or null where the file says there is none."""
    value = pl.col(column).str.strip_chars()
    return pl.when(is_missing(value) | (value == "NA")).then(None).otherwise(value).alias(column)


def _words(column: str, separator: str) -> pl.Expr:
    """A list feature: distinct values in order, none for a missing one."""
    parts = pl.col(column).fill_null("").str.split(separator)
    word = pl.element().str.strip_chars()
    return parts.list.eval(word.filter(~is_missing(word))).list.unique(maintain_order=True)


def _title_and_year(title: str) -> list[pl.Expr]:
    """'Toy Story (1995)' → its words in lower case, and the year."""
    year = pl.col(title).str.extract(r"\((\d{4})[^)]*\)\s*$", 1)
    bare = pl.col(title).str.replace(r"\s*\(\d{4}[^)]*\)\s*$", "").str.to_lowercase()
    return [bare.str.extract_all(r"[\p{L}\p{N}']+").list.unique(maintain_order=True).alias("title"),
            year.alias("release_year")]  # fmt: skip


def _folder(config: DataConfig) -> str:
    assert config.path is not None
    require(
        Path(config.path).is_dir(),
        f"data.path={config.path} is no folder here; data={config.source} reads a local folder",
    )
    return config.path.rstrip("/")


def _interactions(frame: pl.LazyFrame, names: dict[str, str]) -> pl.LazyFrame:
    """Rename a table's columns to the four of a log; ratings and times may be missing."""
    found = frame.collect_schema().names()
    return frame.select(
        *[
            (pl.col(names[n]) if names.get(n) in found else pl.lit(None, pl.String)).alias(n)
            for n in ("user", "item", "rating", "timestamp")
        ],
        "file", "line", "reason", "text",
    )  # fmt: skip


def _entities(
    frame: pl.LazyFrame, key: str, columns: list[pl.Expr], kinds: dict[str, Kind]
) -> Table:
    reserved = sorted({*RESERVED_COLUMNS} & {*kinds})
    require(not reserved, f"a feature may not be called {', '.join(reserved)}; rename that column")
    slashed = [name for name in kinds if "/" in name]
    require(not slashed, f"feature '{''.join(slashed[:1])}' holds a '/'; rename that column")
    return Table(
        frame.select(
            pl.col(key).str.strip_chars().alias("id"), *columns, "file", "line", "reason", "text"
        ),
        kinds,
    )


def _recbole(config: DataConfig, work: Path) -> Source:
    folder = Path(_folder(config))
    logs = sorted(folder.glob("*.inter"))
    require(
        len(logs) == 1,
        f"{folder} holds {len(logs)} .inter files; data=recbole expects exactly one, "
        "with its .user and .item beside it",
    )
    files = [logs[0]]

    def read(path: Path) -> tuple[pl.LazyFrame, dict[str, str]]:
        fmt = TextFormat("\t")
        header = split_header(as_utf8(path, "utf-8", work), fmt)
        typed = {name.partition(":")[0]: name.partition(":")[2] for name in header}
        kinds = {"token", "token_seq", "float", "float_seq"}
        wrong = [name for name, kind in typed.items() if kind not in kinds]
        require(
            not wrong,
            f"{path.name}: column '{wrong[0] if wrong else ''}' has no type; RecBole headers read "
            "name:token, name:token_seq, name:float or name:float_seq",
        )
        frame = scan_text(str(path), fmt, work).rename(dict(zip(header, typed, strict=True)))
        return frame, typed

    def entities(suffix: str, key: str) -> Table | None:
        path = logs[0].with_suffix(suffix)
        if not path.exists():
            return None
        files.append(path)
        frame, typed = read(path)
        require(key in typed, f"{path.name} has no column {key}; it has {', '.join(typed)}")
        usable = {n: RECBOLE_KINDS[k] for n, k in typed.items() if n != key and k in RECBOLE_KINDS}
        columns = [_words(n, " ") if k == "token_list" else _clean(n) for n, k in usable.items()]
        return _entities(frame, key, columns, usable)

    log, typed = read(logs[0])
    for needed in ("user_id", "item_id", *(() if config.is_implicit else ("rating",))):
        require(
            needed in typed, f"{logs[0].name} has no column {needed}; it has {', '.join(typed)}"
        )
    names = {"user": "user_id", "item": "item_id", "rating": "rating", "timestamp": "timestamp"}
    users, items = entities(".user", "user_id"), entities(".item", "item_id")
    return Source(_interactions(log, names), "timestamp" in typed, users, items, tuple(files))


def _movielens_100k(config: DataConfig, work: Path) -> Source:
    folder = _folder(config)
    log = scan_text(
        f"{folder}/u.data", TextFormat("\t", ("user", "item", "rating", "timestamp")), work
    )
    users = scan_text(
        f"{folder}/u.user",
        TextFormat("|", ("id_", "age", "gender", "occupation", "zip_code"), encoding="latin-1"),
        work,
    )
    columns = ("id_", "title_", "date", "video_date", "url")
    flags = tuple(f"flag_{k}" for k in range(len(ML100K_GENRES)))
    items = scan_text(
        f"{folder}/u.item", TextFormat("|", columns + flags, encoding="latin-1"), work
    )
    genres = pl.concat_list(
        [
            pl.when(pl.col(f) == "1").then(pl.lit(g))
            for f, g in zip(flags, ML100K_GENRES, strict=True)
        ]
    ).list.drop_nulls()
    return Source(
        _interactions(log, {n: n for n in ("user", "item", "rating", "timestamp")}),
        True,
        _entities(
            users,
            "id_",
            [_clean(n) for n in ("age", "gender", "occupation", "zip_code")],
            {"age": "token", "gender": "token", "occupation": "token", "zip_code": "token"},
        ),
        _entities(
            items,
            "id_",
            [*_title_and_year("title_"), genres.alias("genres")],
            {"title": "token_list", "release_year": "token", "genres": "token_list"},
        ),
        tuple(Path(folder, n) for n in ("u.data", "u.user", "u.item")),
    )


def _movielens_1m(config: DataConfig, work: Path) -> Source:
    folder = _folder(config)

    def read(name: str, columns: tuple[str, ...]) -> pl.LazyFrame:
        return scan_text(f"{folder}/{name}", TextFormat("::", columns, encoding="latin-1"), work)

    log = read("ratings.dat", ("user", "item", "rating", "timestamp"))
    users = read("users.dat", ("id_", "gender", "age", "occupation", "zip_code"))
    items = read("movies.dat", ("id_", "title_", "genres"))
    return Source(
        _interactions(log, {n: n for n in ("user", "item", "rating", "timestamp")}),
        True,
        _entities(
            users,
            "id_",
            [_clean(n) for n in ("gender", "age", "occupation", "zip_code")],
            {"gender": "token", "age": "token", "occupation": "token", "zip_code": "token"},
        ),
        _entities(
            items,
            "id_",
            [*_title_and_year("title_"), _words("genres", "|")],
            {"title": "token_list", "release_year": "token", "genres": "token_list"},
        ),
        tuple(Path(folder, n) for n in ("ratings.dat", "users.dat", "movies.dat")),
    )


def _movielens_csv(config: DataConfig, work: Path) -> Source:
    folder = _folder(config)
    fmt = TextFormat(",", is_quoted=True)
    log = scan_text(f"{folder}/ratings.csv", fmt, work)
    items = scan_text(f"{folder}/movies.csv", fmt, work)
    _require_columns(log, f"{folder}/ratings.csv", ("userId", "movieId", "rating"))
    _require_columns(items, f"{folder}/movies.csv", ("movieId", "title", "genres"))
    genres = pl.when(pl.col("genres") != "(no genres listed)").then(pl.col("genres"))
    return Source(
        _interactions(
            log,
            {"user": "userId", "item": "movieId", "rating": "rating", "timestamp": "timestamp"},
        ),
        True,
        None,
        _entities(
            items.with_columns(genres.alias("genres")),
            "movieId",
            [*_title_and_year("title"), _words("genres", "|")],
            {"title": "token_list", "release_year": "token", "genres": "token_list"},
        ),
        tuple(Path(folder, n) for n in ("ratings.csv", "movies.csv")),
    )


def _bookcrossing(config: DataConfig, work: Path) -> Source:
    folder = _folder(config)
    fmt = TextFormat(";", is_quoted=True, is_escaped=True, encoding="latin-1")
    log = scan_text(f"{folder}/BX-Book-Ratings.csv", fmt, work)
    users = scan_text(f"{folder}/BX-Users.csv", fmt, work)
    items = scan_text(f"{folder}/BX-Books.csv", fmt, work)
    _require_columns(log, "BX-Book-Ratings.csv", ("User-ID", "ISBN", "Book-Rating"))
    _require_columns(users, "BX-Users.csv", ("User-ID", "Location", "Age"))
    _require_columns(
        items, "BX-Books.csv", ("ISBN", "Book-Author", "Year-Of-Publication", "Publisher")
    )
    age = pl.col("Age").cast(pl.Float64, strict=False)
    decade = pl.when(age.is_between(5, 105)).then((age // 10 * 10).cast(pl.Int64).cast(pl.String))
    country = pl.col("Location").str.split(",").list.last().str.strip_chars().str.to_lowercase()
    year = pl.when(pl.col("Year-Of-Publication") != "0").then(pl.col("Year-Of-Publication"))
    return Source(
        _interactions(log, {"user": "User-ID", "item": "ISBN", "rating": "Book-Rating"}),
        False,
        _entities(
            users.with_columns(decade.alias("age_decade"), country.alias("country")),
            "User-ID",
            [_clean("age_decade"), _clean("country")],
            {"age_decade": "token", "country": "token"},
        ),
        _entities(
            items.with_columns(year.alias("year")),
            "ISBN",
            [
                _clean("Book-Author").alias("author"),
                _clean("year"),
                _clean("Publisher").alias("publisher"),
            ],
            {"author": "token", "year": "token", "publisher": "token"},
        ),
        tuple(Path(folder, n) for n in ("BX-Book-Ratings.csv", "BX-Users.csv", "BX-Books.csv")),
    )


def _mapped(config: DataConfig, work: Path) -> Source:
    """csv and parquet: the user says which column is what."""
    named = {k: v for k, v in asdict(config.columns).items() if v is not None}
    clashing = sorted({*INTERNAL} & {*named.values()})
    require(
        not clashing,
        f"data.columns names '{''.join(clashing[:1])}', as the preparation calls a column of its "
        "own; rename that column",
    )
    for name, kind in {**config.user_features, **config.item_features}.items():
        require(
            kind in ("token", "token_list", "float"),
            f"feature {name} has kind '{kind}'; expected token, token_list or float",
        )

    def read(path: str, columns: list[str]) -> pl.LazyFrame:
        if config.source == "parquet":
            return scan_columns(path, columns, work)
        fmt = TextFormat(config.separator, is_quoted=True, encoding=config.encoding)
        frame = scan_text(path, fmt, work)
        _require_columns(frame, path, tuple(columns))
        return frame

    def entities(path: str | None, key: str, kinds: dict[str, str]) -> Table | None:
        if path is None:
            require(not kinds, f"features {', '.join(kinds)} are named but {key}s_path is not set")
            return None
        id_column = named[key]
        typed: dict[str, Kind] = dict(kinds)  # type: ignore[arg-type]
        separator = "|" if config.source == "parquet" else config.list_separator
        columns = [
            _words(n, separator) if k == "token_list" else _clean(n) for n, k in typed.items()
        ]
        return _entities(read(path, [id_column, *kinds]), id_column, columns, typed)

    assert config.path is not None
    log = read(config.path, list(named.values()))
    files = [p for p in (config.path, config.users_path, config.items_path) if p]
    return Source(
        _interactions(log, named),
        "timestamp" in named,
        entities(config.users_path, "user", config.user_features),
        entities(config.items_path, "item", config.item_features),
        tuple(part for p in files for part in _parts(local_copy(p, work))),
    )


def _parts(path: Path) -> list[Path]:
    """A file, or the Parquet files of a folder."""
    return sorted(path.glob("*.parquet")) if path.is_dir() else [path]


def _synthetic(config: DataConfig, work: Path) -> Source:
    made = write_synthetic(
        work / "synthetic",
        users=config.users,
        items=config.items,
        mean_interactions=config.mean_interactions,
        seed=config.seed,
    )

    def scan(name: str, lists: tuple[str, ...] = ()) -> pl.LazyFrame:
        """A generated Parquet file, as ``lines`` would give it."""
        frame = pl.scan_parquet(made.folder / f"{name}.parquet", row_index_name="row", glob=False)
        texts = [c for c in frame.collect_schema().names() if c not in ("row", *lists)]
        return frame.select(
            *[pl.col(c).cast(pl.String) for c in texts],
            *lists,
            file=pl.lit(f"{name}.parquet"),
            line=pl.col("row").cast(pl.Int64) + 1,
            reason=pl.lit(None, pl.String),
            text=pl.lit(None, pl.String),
        )

    return Source(
        scan("interactions"),
        True,
        Table(scan("users"), {"age": "token", "region": "token"}),
        Table(scan("items", ("category",)), {"category": "token_list", "maker": "token"}),
        (),
        made=(made.folder / "interactions.parquet",),
        group="group",
        notes={"noise_floor_rmse": made.noise_floor_rmse},
    )


def _require_columns(frame: pl.LazyFrame, path: str, columns: tuple[str, ...]) -> None:
    found = frame.collect_schema().names()
    missing = [c for c in columns if c not in found]
    if missing:
        raise InputError(
            f"{Path(path).name} has no column {', '.join(missing)}; it has {', '.join(found[:-4])}"
        )


READERS: dict[str, Callable[[DataConfig, Path], Source]] = {
    "synthetic": _synthetic,
    "recbole": _recbole,
    "movielens_100k": _movielens_100k,
    "movielens_1m": _movielens_1m,
    "movielens_csv": _movielens_csv,
    "bookcrossing": _bookcrossing,
    "csv": _mapped,
    "parquet": _mapped,
}
