"""Shared fixtures."""

import os
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


def _named_by(variable: str, what: str) -> Path:
    """The folder that an environment variable names."""
    folder = os.environ.get(variable)
    if not folder:
        if os.environ.get("CI"):
            pytest.fail(f"{variable} is not set, and {what} must be tested in CI")
        pytest.skip(f"set {variable} to the folder of {what}")
    return Path(folder)
