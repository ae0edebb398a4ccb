"""A store to train on."""

from pathlib import Path

import pytest
from small_training import prepare_store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return prepare_store(tmp_path_factory.mktemp("train"))
