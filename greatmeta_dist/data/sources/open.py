"""Open the source that a configuration names."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.sources.base import (
    CHECKED_OPTIONS,
    MAPPED_OPTIONS,
    Source,
    options_read,
)
from greatmeta_dist.errors import require
from greatmeta_dist.extensions import SOURCES


def open_source(config: DataConfig, work: Path) -> Source:
    """Open the source ``data.source``; ``work`` takes copies and generated files.

    Raises ``InputError`` where an option is set that the source does not read, where ``data.path``
    is missing, and where the files cannot be read.
    """
    source = SOURCES.get(config.source)
    _check_options(config, options_read(source))
    return source(config, work)


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
