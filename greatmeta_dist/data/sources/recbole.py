"""RecBole atomic files: typed headers; a ``.inter`` file, with a ``.user`` and a ``.item``."""

from pathlib import Path

import polars as pl

from greatmeta_dist.config import ColumnsConfig, DataConfig
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
from greatmeta_dist.data.text import TextFormat, scan_text, split_header
from greatmeta_dist.data.text_files import as_utf8
from greatmeta_dist.errors import require

TYPES = {"token", "token_seq", "float", "float_seq"}
KINDS: dict[str, Kind] = {"token": "token", "token_seq": "token_list", "float": "float"}
"""Types of RecBole as kinds of features. Columns of type ``float_seq`` are left out, and said to
be: a store has no vectors."""
ROLES = {"user": "user_id", "item": "item_id", "rating": "rating", "timestamp": "timestamp"}


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
    # A log that only says what was met is one of clicks, whatever data.click_at is.
    needs_rating = not config.is_click and config.repeats_rule != "count"
    for name in ("user_id", "item_id", *(("rating",) if needs_rating else ())):
        _require_column(path, types, name)
    columns = ColumnsConfig(**{r: c if c in types else None for r, c in ROLES.items()})  # type: ignore[arg-type]
    not_used = {path.name: [f"{n}:{t}" for n, t in types.items() if n not in ROLES.values()]}
    tables: dict[str, Table | None] = {}
    for suffix, key in ((".user", "user_id"), (".item", "item_id")):
        file, tables[key] = path.with_suffix(suffix), None
        if file.exists():
            tables[key], not_used[file.name] = _entities(file, key, config, work)
    return Source(
        interactions_of(log, ROLES),
        has_timestamp="timestamp" in types,
        users=tables["user_id"],
        items=tables["item_id"],
        files=tuple(f for s in (".inter", ".user", ".item") if (f := path.with_suffix(s)).exists()),
        columns=columns,
        not_used={name: unused for name, unused in not_used.items() if unused},
    )


def _scan(path: Path, work: Path) -> tuple[pl.LazyFrame, dict[str, str]]:
    """A file's columns by their bare names, and each one's RecBole type."""
    fmt = TextFormat("\t")
    header = split_header(as_utf8(path, "utf-8", work), fmt)
    bare = [name.partition(" (column")[0].partition(":")[0] for name in header]
    repeated = [name for name in bare if bare.count(name) > 1]
    require(
        not repeated,
        f"{path.name} names column '{''.join(repeated[:1])}' {len(repeated)} times; name each once",
    )
    types = {name.partition(":")[0]: name.partition(":")[2] for name in header}
    untyped = [name for name, type_ in types.items() if type_ not in TYPES]
    require(
        not untyped,
        f"{path.name}: column '{untyped[0] if untyped else ''}' has no type; RecBole headers read "
        "name:token, name:token_seq, name:float or name:float_seq",
    )
    frame = scan_text(str(path), fmt, work).rename(dict(zip(header, types, strict=True)))
    return frame, types


def _entities(
    path: Path, id_column: str, config: DataConfig, work: Path
) -> tuple[Table, list[str]]:
    """A file's features, and its columns that are none."""
    frame, types = _scan(path, work)
    _require_column(path, types, id_column)
    kinds = {n: KINDS[t] for n, t in types.items() if n != id_column and t in KINDS}
    missing = config.missing_values
    columns = [
        value_list(n, " ", missing) if k == "token_list" else single_value(n, missing)
        for n, k in kinds.items()
    ]
    not_used = [f"{n}:{t}" for n, t in types.items() if n not in (id_column, *kinds)]
    return entity_table(frame, id_column, columns, kinds, missing=missing), not_used


def _require_column(path: Path, types: dict[str, str], name: str) -> None:
    require(name in types, f"{path.name} has no column {name}; it has {', '.join(types)}")
