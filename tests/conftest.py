"""Shared fixtures."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ml100k() -> Path:
    """The folder of MovieLens 100K in RecBole's form, with its split; fails in CI without it."""
    folder = os.environ.get("GREATMETA_ML100K")
    if not folder:
        if os.environ.get("CI"):
            pytest.fail("GREATMETA_ML100K is not set, and the data tests must run in CI")
        pytest.skip("set GREATMETA_ML100K to the MovieLens 100K folder to run the data tests")
    return Path(folder)


@pytest.fixture(scope="session")
def kuberay() -> Path:
    """The folder of KubeRay's published schemas; fails in CI without it."""
    folder = os.environ.get("GREATMETA_KUBERAY")
    if not folder:
        if os.environ.get("CI"):
            pytest.fail("GREATMETA_KUBERAY is not set, and the schemas must be tested in CI")
        pytest.skip("set GREATMETA_KUBERAY to the folder of KubeRay's schemas")
    return Path(folder)
