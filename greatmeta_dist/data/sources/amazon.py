"""Amazon Reviews 2023 as downloaded: one category, as JSON Lines or as CSV of ratings alone."""

from dataclasses import replace
from pathlib import Path

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.sources.base import Kind, Source, interactions_of, reads
from greatmeta_dist.data.sources.folders import DataFile, bare_name, format_of, local_file
from greatmeta_dist.data.sources.mapped import Files, Reader
from greatmeta_dist.errors import require

META = "meta_"
"""Files of products are called as those of their reviews, after this."""
ROLES = {"user": "user_id", "item": "parent_asin", "rating": "rating", "timestamp": "timestamp"}
FEATURES: dict[str, Kind] = {
    "main_category": "token",
    "store": "token",
    "categories": "token_list",
    "price": "float",
}


@reads("path")
def open_amazon_2023(config: DataConfig, work: Path) -> Source:
    """Open the file of a category's reviews, or a folder with one; products where they are beside.

    Colours and sizes of a product are one item, its ``parent_asin``.
    """
    assert config.path is not None
    log, products = _find(Path(config.path))
    reader = Reader(config, work)
    reviews = Files([DataFile(str(log), log.name)], format_of(log.name, "csv"))
    available = reader.columns(reviews)
    missing = [column for column in ROLES.values() if column not in available]
    require(
        not missing,
        f"{log.name} has no column {', '.join(missing)}; it has {', '.join(available)}",
    )
    frame = reader.scan(
        reviews, {"user_id": "id", "parent_asin": "id", "rating": "value", "timestamp": "value"}
    )
    items, files = None, [log]
    if products is not None:
        table = Files([DataFile(str(products), products.name)], "jsonl")
        items = reader.table(table, "parent_asin", FEATURES)
        items = replace(items, frame=items.frame.with_columns(_price("price")))
        files.append(products)
    return Source(
        interactions_of(frame, ROLES),
        has_timestamp=True,
        users=None,
        items=items,
        files=tuple(local_file(DataFile(str(file), file.name), work) for file in files),
        not_used={log.name: [c for c in available if c not in ROLES.values()]},
    )


def _price(column: str) -> pl.Expr:
    """Prices are numbers, or texts such as ``$1,299.00``, ``from 14.99`` and a dash for none."""
    return pl.col(column).str.replace_all(",", "").str.extract(r"(\d+(?:\.\d+)?)", 1).alias(column)


def _find(path: Path) -> tuple[Path, Path | None]:
    """The file of reviews, and that of the products if there is one.

    Raises ``InputError`` where there is no file of reviews, or where there are several.
    """
    require(path.exists(), f"{path} does not exist; check the path")
    folder = path if path.is_dir() else path.parent
    inside = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    readable = [p for p in inside if bare_name(p.name).endswith((".jsonl", ".csv"))]
    reviews = [p for p in readable if not p.name.startswith(META)]
    if not path.is_dir():
        reviews = [path]
    require(
        len(reviews) == 1,
        f"{path} holds {len(reviews)} files of reviews ({', '.join(p.name for p in reviews[:4])}); "
        "name the one to read in data.path",
    )
    category = bare_name(reviews[0].name).partition(".")[0]
    products = [p for p in readable if bare_name(p.name) == f"{META}{category}.jsonl"]
    return reviews[0], products[0] if products else None
