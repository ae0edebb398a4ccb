"""Forms of the model that must all agree, with small stores of ratings and of clicks for them."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from logs import csv_config, write_log
from small_training import prepare_store

from greatmeta_dist.config import ModelConfig, PriorsConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.priors.fit import Priors, fit_priors

DEEP = ModelConfig(embedding_dim=4, hidden=[8, 6], embedding_std=1.0)
MODELS = {
    "shipped": DEEP,
    "relu": replace(DEEP, activation="relu"),
    "linear": replace(DEEP, activation="none", target="rating", embedding_std=0.1),
    "no encoder": replace(DEEP, has_encoder=False, has_kernel=False, activation="gelu"),
    "no kernel": replace(DEEP, has_kernel=False, is_film_residual=False),
    "model alone": replace(DEEP, use_bayesian_mf=False, target="standardised"),
}


def rating_and_click_stores(folders: pytest.TempPathFactory) -> dict[str, Store]:
    """Stores of the same log, as ratings and as clicks."""
    folder = folders.mktemp("clicks")
    clicks = csv_config(write_log(folder, num_users=120), label="click", click_at=3.5)
    prepare(clicks, folder / "store")
    return {
        "ratings": Store(prepare_store(folders.mktemp("ratings"))),
        "clicks": Store(folder / "store"),
    }


def fitted_priors(
    stores: Mapping[str, Store], options: PriorsConfig | None = None
) -> dict[str, Priors]:
    """The priors of each store."""
    return {
        name: fit_priors(
            store.training_rows(), options or PriorsConfig(), lambda stage, share: None
        )
        for name, store in stores.items()
    }
