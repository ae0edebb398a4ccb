"""Fixtures of logs."""

import polars as pl
import pytest
from logs import write_log

from greatmeta_dist.config import ColumnsConfig, DataConfig


@pytest.fixture
def implicit(tmp_path) -> DataConfig:
    log = pl.read_csv(write_log(tmp_path)).drop("r")
    log.write_csv(tmp_path / "met.csv")
    return DataConfig(
        source="csv",
        path=str(tmp_path / "met.csv"),
        columns=ColumnsConfig("u", "i", None, "t"),
        label="click",
        cold_item_fraction=0.2,
        query_items=3,
    )
