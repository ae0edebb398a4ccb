"""Small logs for tests, and how to open and configure them."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data.sources import Source, open_source

COLUMNS = ColumnsConfig("u", "i", "r", "t")


def write_log(folder: Path, *, num_users: int = 60, num_items: int = 50, seed: int = 0) -> Path:
    """A CSV log in which every user rates 14 to 30 items."""
    rng = np.random.default_rng(seed)
    lines = ["u,i,r,t"]
    for user in range(num_users):
        items = rng.choice(num_items, rng.integers(14, 31), replace=False)
        lines += [f"u{user},i{i},{rng.integers(1, 6)},{rng.integers(10**6)}" for i in items]
    path = folder / "log.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def csv_config(path: Path, **options: Any) -> DataConfig:
    return DataConfig(source="csv", path=str(path), columns=COLUMNS, **options)


def open_files(tmp_path: Path, source: str, files: dict[str, bytes], **options) -> Source:
    """Write files into a folder ``data``, and open them; ``{folder}`` in options is that folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    work = tmp_path / "work"
    work.mkdir()
    options = {k: v.format(folder=folder) if isinstance(v, str) else v for k, v in options.items()}
    return open_source(DataConfig(source=source, **{"path": str(folder), **options}), work)


def rows(frame: pl.LazyFrame, *columns: str) -> list[tuple]:
    """The well-formed rows of a source's frame."""
    return frame.filter(pl.col("reason").is_null()).select(columns).collect().rows()


def bad(frame: pl.LazyFrame) -> list[tuple]:
    """The malformed rows of a source's frame: file, line, reason, text."""
    malformed = frame.filter(pl.col("reason").is_not_null())
    return malformed.select("file", "line", "reason", "text").collect().rows()
