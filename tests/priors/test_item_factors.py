"""Factors of the training ratings, and the rows that start at them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fitted import fit_all, fit_named
from logs import csv_config, write_log
from scipy import sparse
from stores import CHOICE

from greatmeta_dist.config import PriorsConfig
from greatmeta_dist.config.priors import ItemFactorsConfig
from greatmeta_dist.data import scan
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import ITEM_ID, Store
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.priors.base import most_rated
from greatmeta_dist.priors.item_factors import ItemFactorsPrior, item_factors
from greatmeta_dist.training.build import build_model

OPTIONS = ItemFactorsConfig()
NUM_FACTORS = OPTIONS.num_factors


def factors_of(chunks, count, *, seed=0):
    return item_factors(chunks, count, options=OPTIONS, seed=seed)


def low_rank_residuals(num_users=400, num_items=90, rank=4, density=0.4, seed=0):
    """Residuals [users, items] of a few tastes and some noise, and items' ratings."""
    rng = np.random.default_rng(seed)
    tastes = rng.normal(size=(num_users, rank)) * 2.0 ** -np.arange(rank)
    value = tastes @ rng.normal(size=(rank, num_items)) + 0.3 * rng.normal(
        size=(num_users, num_items)
    )
    is_rated = rng.random(value.shape) < density * rng.random(num_items)
    return sparse.csr_matrix(value * is_rated), is_rated.sum(0)


def test_factors_are_those_of_a_whole_eigendecomposition_however_users_are_chunked():
    residuals, count = low_rank_residuals()
    chunks = [residuals[:150], residuals[150:150], residuals[150:]]
    factors = factors_of(lambda: iter(chunks), count)
    assert factors == pytest.approx(factors_of(lambda: [residuals], count), abs=1e-3)
    other = factors_of(lambda: [residuals], count, seed=1)
    assert factors[:, :4] == pytest.approx(other[:, :4], rel=0.02, abs=0.02)

    scaled = residuals.toarray() / np.sqrt(count + OPTIONS.damping)
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    values, vectors = values[::-1], vectors[:, ::-1]
    strength = np.maximum(values[:NUM_FACTORS] - values[NUM_FACTORS], 0)
    gram = (vectors[:, :NUM_FACTORS] * strength) @ vectors[:, :NUM_FACTORS].T
    gram *= count.sum() / (count @ np.diag(gram))
    assert np.abs(factors @ factors.T - gram).max() < 0.02 * np.abs(gram).max()
    assert count @ (factors**2).sum(1) == pytest.approx(count.sum())
    size = (factors**2).sum(0)
    assert (np.diff(size) <= 1e-3 * size[0]).all()


@pytest.mark.parametrize("num_items", [1, 3, NUM_FACTORS + 1])
def test_few_items_have_fewer_factors_and_nothing_in_common_has_none(num_items):
    residuals, count = low_rank_residuals(num_items=num_items, rank=1)
    factors = factors_of(lambda: [residuals], count)
    assert factors.shape == (num_items, NUM_FACTORS)
    assert np.isfinite(factors).all()
    assert not factors[:, num_items:].any()
    nothing = factors_of(lambda: [residuals * 0], count)
    assert not nothing.any()


def test_items_of_no_training_rating_have_no_factors():
    assert most_rated(np.array([3, 0, 1, 0, 7]), 9).tolist() == [0, 2, 4]
    assert most_rated(np.array([3, 0, 1, 0, 3]), 1).tolist() == [0]


def prior_of(store: Store, options: PriorsConfig | None = None) -> ItemFactorsPrior:
    rows = store.training_rows()
    return fit_named(rows, "bias", "item_factors", options=options or PriorsConfig())[
        "item_factors"
    ]


def test_factors_are_of_training_users_alone(tmp_path):
    path = write_log(tmp_path)
    prepare(csv_config(path), tmp_path / "store")
    store = Store(tmp_path / "store")
    prior = prior_of(store)
    count = store.training_rows().item_count
    assert prior.item.tolist() == np.flatnonzero(count).tolist()
    assert count[prior.item] @ (prior.factors**2).sum(1) == pytest.approx(count.sum(), rel=1e-4)

    held_out = {*store.split("valid", CHOICE).user, *store.split("user_cold", CHOICE).user}
    lines = path.read_text().splitlines()
    flipped = [
        ",".join([u, i, str(6 - int(r)), t]) if u in held_out else f"{u},{i},{r},{t}"
        for u, i, r, t in (line.split(",") for line in lines[1:])
    ]
    path.write_text("\n".join([lines[0], *flipped]) + "\n")
    prepare(csv_config(path), tmp_path / "other")
    assert np.array_equal(prior_of(Store(tmp_path / "other")).factors, prior.factors)


def test_a_large_log_is_factored_by_its_first_users(tmp_path, monkeypatch):
    path = write_log(tmp_path)
    monkeypatch.setattr(scan, "BUCKET_BYTES", 2000)
    prepare(csv_config(path), tmp_path / "store")
    store = Store(tmp_path / "store")
    rows = store.training_rows()
    whole = prior_of(store)
    num_read = 0

    def counted():
        nonlocal num_read
        for chunk in rows.chunks():
            num_read += 1
            yield chunk

    prior = ItemFactorsPrior.fit(
        replace(rows, chunks=counted),
        PriorsConfig(item_factors=ItemFactorsConfig(max_ratings=250)),
        fitted=fit_named(rows, "bias"),
        progress=lambda *_: None,
    )
    assert 1 < num_read < store.manifest.shards["train"]
    assert np.isfinite(prior.factors).all()
    assert 0 < len(prior.item) <= len(whole.item)


def test_only_the_most_rated_items_have_factors(tmp_path):
    prepare(csv_config(write_log(tmp_path)), tmp_path / "store")
    store = Store(tmp_path / "store")
    prior = prior_of(store, PriorsConfig(item_factors=ItemFactorsConfig(max_items=7)))
    assert prior.item.tolist() == most_rated(store.training_rows().item_count, 7).tolist()
    assert prior.factors.shape == (7, NUM_FACTORS)


@pytest.mark.parametrize("width", [4, NUM_FACTORS + 8])
def test_items_own_rows_start_at_their_factors_and_no_other_row_does(tmp_path, width):
    prepare(csv_config(write_log(tmp_path)), tmp_path / "store")
    store = Store(tmp_path / "store")
    priors = fit_all(store)

    def rows(item_init):
        options = [f"model.embedding_dim={width}", f"model.item_init={item_init}"]
        config = compose_config(
            [f"store={tmp_path / 'store'}", "model.embedding_std=0.5", *options]
        )
        return build_model(config, store, priors).worker.table.weight

    moved = rows("factors") - rows("random")
    prior = priors["item_factors"]
    names = [f.name for f in store.fields("item", CHOICE)]
    field = store.item_features(CHOICE).fields[names.index(ITEM_ID)]
    expected = torch.zeros_like(moved)
    kept = min(width, NUM_FACTORS)
    for i, values in zip(prior.item, prior.factors, strict=True):
        (row,) = field.values[field.offsets[i] : field.offsets[i + 1]]
        expected[row, :kept] = torch.tensor(values[:kept]) * 0.5 * width**0.5
    assert expected.abs().sum() > 0
    assert torch.allclose(moved, expected, atol=1e-6)
