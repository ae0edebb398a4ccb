"""RecBole atomic files: typed headers; a ``.inter`` file, with a ``.user`` and a ``.item``."""

from pathlib import Path

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.sources.base import (
    Kind,
    Source,
    Table,
    entity_table,
    interactions_of,
    local_folder,
    single_value,
    value_list,
)
from greatmeta_dist.data.text import TextFormat, as_utf8, scan_text, split_header
from greatmeta_dist.errors import require

TYPES = {"token", "token_seq", "float", "float_seq"}
KINDS: dict[str, Kind] = {"token": "token", "token_seq": "token_list", "float": "float"}
"""Types of RecBole as kinds of features; columns of type ``float_seq`` are not used."""


def open_recbole(config: DataConfig, work: Path) -> Source:
    """Open the folder ``data.path``, which holds exactly one ``.inter`` file."""
    folder = Path(local_folder(config))
    logs = sorted(folder.glob("*.inter"))
    require(
        len(logs) == 1,
        f"{folder} holds {len(logs)} .inter files; data=recbole expects exactly one, "
        "with its .user and .item beside it",
    )
    path = logs[0]
    log, types = _scan(path, work)
    for name in ("user_id", "item_id", *(() if config.is_implicit else ("rating",))):
        _require_column(path, types, name)
    names = {"user": "user_id", "item": "item_id", "rating": "rating", "timestamp": "timestamp"}
    entity_files = [path.with_suffix(suffix) for suffix in (".user", ".item")]
    users, items = (
        _entities(file, key, work) if file.exists() else None
        for file, key in zip(entity_files, ("user_id", "item_id"), strict=True)
    )
    return Source(
        interactions_of(log, names),
        has_timestamp="timestamp" in types,
        users=users,
        items=items,
        files=(path, *(file for file in entity_files if file.exists())),
    )


def _scan(path: Path, work: Path) -> tuple[pl.LazyFrame, dict[str, str]]:
    """A file's columns by their bare names, and each one's RecBole type."""
    fmt = TextFormat("\t")
    header = split_header(as_utf8(path, "utf-8", work), fmt)
    types = {name.partition(":")[0]: name.partition(":")[2] for name in header}
    untyped = [name for name, type_ in types.items() if type_ not in TYPES]
    require(
        not untyped,
        f"{path.name}: column '{untyped[0] if untyped else ''}' has no type; RecBole headers read "
        "name:token, name:token_seq, name:float or name:float_seq",
    )
    frame = scan_text(str(path), fmt, work).rename(dict(zip(header, types, strict=True)))
    return frame, types


def _entities(path: Path, id_column: str, work: Path) -> Table:
    frame, types = _scan(path, work)
    _require_column(path, types, id_column)
    kinds = {n: KINDS[t] for n, t in types.items() if n != id_column and t in KINDS}
    columns = [
        value_list(n, " ") if k == "token_list" else single_value(n) for n, k in kinds.items()
    ]
    return entity_table(frame, id_column, columns, kinds)


def _require_column(path: Path, types: dict[str, str], name: str) -> None:
    require(name in types, f"{path.name} has no column {name}; it has {', '.join(types)}")
