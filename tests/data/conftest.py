"""Fixtures of logs."""

from pathlib import Path

import polars as pl
import pytest
from logs import write_log

from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data.rejects import Rejects
from greatmeta_dist.data.scan import scan_log
from greatmeta_dist.data.sources import Source, open_source

LOG = ("user", "item", "rating", "timestamp")


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


@pytest.fixture
def opened(tmp_path):
    """``opened(source, path, ...)`` opens what a test wrote."""
    work = tmp_path / "work"

    def run(source: str, path: Path, **options) -> Source:
        work.mkdir()
        return open_source(DataConfig(source=source, path=str(path), **options), work)

    return run


@pytest.fixture
def checked(opened, tmp_path):
    """``checked(source, path, ...)``: the good rows of a log, and the rejects."""

    def run(source: str, path: Path, **options) -> tuple[list[tuple], list[tuple]]:
        config = DataConfig(source=source, path=str(path), **options)
        log = opened(source, path, **options)
        rejects = Rejects(tmp_path / "rejects.parquet")
        scanned = scan_log(log, config, rejects, tmp_path / "log")
        rejects.read_from_disk()
        buckets = [scanned.bucket(k).sort("line") for k in range(scanned.num_buckets)]
        good = pl.concat(buckets).select(LOG).rows()
        return good, rejects.table().select("file", "line", "column", "value", "reason").rows()

    return run
