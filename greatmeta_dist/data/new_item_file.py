"""A file of new items, with features as the run's items have them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.entities import read_entities
from greatmeta_dist.data.item_list import item_column, read_items
from greatmeta_dist.data.manifest import Field
from greatmeta_dist.data.rejects import Rejects
from greatmeta_dist.data.sources import Kind
from greatmeta_dist.data.sources.folders import bare_name, format_of
from greatmeta_dist.data.sources.mapped import Files, Reader
from greatmeta_dist.errors import require


@dataclass(frozen=True)
class NewItemFile:
    """What such a file holds."""

    items: dict[str, dict[str, Any]]
    """Features by item, values by feature."""
    not_used: list[str]
    """Columns that are no feature of the run's items."""


def read_new_items(
    path: str, fields: Sequence[Field], in_log: str, work: Path, rejects: Rejects
) -> NewItemFile:
    """Read new items, with those of the ``fields`` that the file has.

    Text (``.txt``) has an item on each line. ``in_log`` is how the run's log calls the item. Raises
    ``InputError`` where the file is unreadable, or too many rows are at fault.
    """
    require("://" in path or Path(path).exists(), f"items={path} does not exist; name a file")
    if bare_name(path).endswith(".txt"):
        return NewItemFile({item: {} for item in read_items(path, "items", in_log, work)}, [])
    config = DataConfig(source="csv", path=path)
    kind = format_of(path, "csv")
    config = replace(config, source=kind)
    table, reader = Files.at(path, kind), Reader(config, work)
    available = reader.columns(table)
    column = item_column(path, "items", in_log, available)
    assert column is not None
    kinds: dict[str, Kind] = {f.name: _kind(f) for f in fields if f.name in available}
    frame = read_entities(reader.table(table, column, kinds), "item", rejects, config)
    rows = frame.select("id", *kinds).iter_rows(named=True)
    not_used = [name for name in available if name not in (column, *kinds)]
    return NewItemFile({row.pop("id"): row for row in rows}, not_used)


def _kind(field: Field) -> Kind:
    if field.edges is not None:
        return "float"
    return "token_list" if field.is_list else "token"
