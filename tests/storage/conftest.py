"""A store on an S3 server, and trainings on it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from s3_server import BUCKET, upload
from small_training import prepare_store, small

from greatmeta_dist.config import Config
from greatmeta_dist.display import Display
from greatmeta_dist.launch.local import launch


@pytest.fixture(scope="session")
def s3(s3_environment, tmp_path_factory) -> Iterator[str]:
    """The URL of a bucket, which this process and those that it starts can reach."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**s3_environment, "GREATMETA_CACHE": str(cache)}.items():
            patch.setenv(name, value)
        yield f"s3://{BUCKET}"


@pytest.fixture
def empty_cache(s3, tmp_path, monkeypatch) -> Path:
    """A machine that has a copy of nothing."""
    monkeypatch.setenv("GREATMETA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def local_store(tmp_path_factory) -> Path:
    return prepare_store(tmp_path_factory.mktemp("local"))


@pytest.fixture(scope="session")
def store(s3, local_store) -> str:
    """The URL of the same store."""
    url = f"{s3}/stores/small"
    upload(local_store, url)
    return url


@pytest.fixture(scope="session")
def training(store) -> Config:
    """A training of 12 steps, with checkpoints at 4, 8 and 12, by as many as two workers."""
    return small(store, valid_every=4, lanes=2)


@pytest.fixture(scope="session")
def whole(s3, training) -> str:
    """The URL of a run that was trained to its end."""
    url = f"{s3}/runs/whole"
    launch(training, url, Display())
    return url


@pytest.fixture(scope="session")
def on_disk(local_store, training, tmp_path_factory) -> Path:
    """The same run on disk."""
    run = tmp_path_factory.mktemp("disk") / "run"
    launch(replace(training, store=str(local_store)), run, Display())
    return run
