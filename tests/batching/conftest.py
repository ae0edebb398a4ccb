"""A small store with its priors, and the lanes made of them."""

from collections.abc import Callable
from typing import Any

import pytest
from fitted import collator_of, fit_named, grouping_of, transform_of
from logs import csv_config, write_log
from stores import CHOICE

from greatmeta_dist.batching.lanes import Lanes
from greatmeta_dist.config import TrainConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.priors.fit import Priors


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("lanes")
    prepare(csv_config(write_log(folder, num_users=125)), folder / "store")
    return Store(folder / "store")


@pytest.fixture(scope="session")
def priors(store) -> Priors:
    return fit_named(store.training_rows(), "bias", "user_groups")


@pytest.fixture(scope="session")
def make_lanes(store, priors) -> Callable[..., Lanes]:
    """Makes the lanes of the store from options of ``train``."""
    collator = collator_of(store, transform_of(store, priors, "standardised"))
    grouping = grouping_of(store, priors)

    def make(*, rank: int = 0, world_size: int = 1, **options: Any) -> Lanes:
        config = TrainConfig(**{"short_support_rate": 0.0, **options})
        return Lanes(store, collator, CHOICE, grouping, config, rank=rank, world_size=world_size)

    return make
