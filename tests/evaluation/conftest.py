"""A store, a run on it, and a log of clicks alone."""

from pathlib import Path

import polars as pl
import pytest
from logs import write_log
from small_training import prepare_store, small

from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.display import Display
from greatmeta_dist.predict import Predictor
from greatmeta_dist.training.loop import train


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    # A seed with which some of the groups are small enough to be minorities.
    return prepare_store(tmp_path_factory.mktemp("evaluation"), seed=1)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory, store) -> Predictor:
    run = tmp_path_factory.mktemp("trained") / "run"
    train(small(store), run, Display())
    return Predictor.load(run)


@pytest.fixture
def implicit(tmp_path) -> DataConfig:
    """A log that holds clicks alone; some items are new to training users."""
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
