"""Open the source that a configuration names."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from greatmeta_dist.config import DataConfig
from greatmeta_dist.config.data import MAPPED_SOURCES
from greatmeta_dist.data.sources.base import (
    CHECKED_OPTIONS,
    MAPPED_OPTIONS,
    Source,
    options_read,
)
from greatmeta_dist.data.sources.folders import ENDINGS, bare_name
from greatmeta_dist.errors import require
from greatmeta_dist.extensions import SOURCES

ATOMIC = (".inter", ".user", ".item", ".kg", ".link", ".net")
"""Endings of RecBole's files."""


def open_source(config: DataConfig, work: Path) -> Source:
    """Open the source ``data.source``; ``work`` takes copies and generated files.

    Raises ``InputError`` where an option is set that the source does not read, where ``data.path``
    is missing, and where the files cannot be read.
    """
    open_it = SOURCES.get(config.source)
    _check_options(config, options_read(open_it))
    source: Source = open_it(config, work)
    if config.source in MAPPED_SOURCES or config.path is None:
        return source
    unread = {name: ["the whole file"] for name in _unread_files(Path(config.path), source)}
    return replace(source, not_used={**source.not_used, **unread})


def _unread_files(folder: Path, source: Source) -> list[str]:
    """Data files in the folder of a data set that its source does not read."""
    if not folder.is_dir():
        return []
    endings = (*(ending for of_kind in ENDINGS.values() for ending in of_kind), *ATOMIC)
    # Copies of packed files are called as these, after a mark.
    read = tuple(file.name for file in source.files)
    names = sorted(p.name for p in folder.iterdir() if bare_name(p.name).endswith(endings))
    return [n for n in names if not any(r == n or r.endswith(f"-{n}") for r in read)]


def _check_options(config: DataConfig, read: tuple[str, ...]) -> None:
    """Refuse options that would be ignored: whoever sets one expects it to matter."""
    require(
        "path" in read or config.path is None,
        f"data.path={config.path} is set, and data={config.source} reads no files; take the preset "
        "of that log, such as data=csv",
    )
    for name in CHECKED_OPTIONS:
        readers = "data=csv, data=jsonl and data=parquet do"
        if name not in MAPPED_OPTIONS:
            readers = "data=synthetic does"
        require(
            name in read or getattr(config, name) == _default(name),
            f"data.{name} is set, and data={config.source} does not read it; {readers}",
        )
    require(
        "path" not in read or config.path is not None,
        f"data.path is not set; data={config.source} needs data.path=<where the files are>",
    )


def _default(name: str) -> Any:
    """An option's value where it is not set."""
    option = next(f for f in fields(DataConfig) if f.name == name)
    factory = option.default_factory
    return factory() if callable(factory) else option.default
