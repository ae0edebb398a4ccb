"""Shared fixtures."""

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LAUNCH = "launch"
"""The folder of tests that start groups of workers, and share one Ray."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups of tests for ``-n 2 --dist loadgroup``, as ``make test`` runs them.

    Tests of a file share fixtures, and those of ``launch`` a Ray. These take longest, so they come
    first.
    """
    items.sort(key=lambda item: _group(item) != LAUNCH)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    inside = item.path.relative_to(TESTS)
    return LAUNCH if inside.parts[0] == LAUNCH else inside.as_posix()


@pytest.fixture(scope="session")
def ml100k() -> Path:
    """The folder of MovieLens 100K in RecBole's form, with its split; fails in CI without it."""
    folder = os.environ.get("GREATMETA_ML100K")
    if not folder:
        if os.environ.get("CI"):
            pytest.fail("GREATMETA_ML100K is not set, and the data tests must run in CI")
        pytest.skip("set GREATMETA_ML100K to the MovieLens 100K folder to run the data tests")
    return Path(folder)
