"""Shared fixtures."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ml100k() -> Path:
    """The folder of MovieLens 100K in RecBole's form, with its split; fails in CI without it."""
    return _named_by("GREATMETA_ML100K", "MovieLens 100K")


@pytest.fixture(scope="session")
def kuberay() -> Path:
    """The folder of KubeRay's published schemas; fails in CI without it."""
    return _named_by("GREATMETA_KUBERAY", "KubeRay's schemas")


@pytest.fixture(scope="session")
def s3_environment(tmp_path_factory) -> Iterator[dict[str, str]]:
    """An S3 server with one bucket: the environment in which programs find it."""
    from s3_server import s3_server  # which imports pyarrow

    with s3_server(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


def _named_by(variable: str, what: str) -> Path:
    """The folder that an environment variable names."""
    folder = os.environ.get(variable)
    if not folder:
        if os.environ.get("CI"):
            pytest.fail(f"{variable} is not set, and {what} must be tested in CI")
        pytest.skip(f"set {variable} to the folder of {what}")
    return Path(folder)
