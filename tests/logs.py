"""Small logs for tests, and stores made of them."""

from pathlib import Path
from typing import Any

import numpy as np

from greatmeta_dist.config import ColumnsConfig, DataConfig

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
