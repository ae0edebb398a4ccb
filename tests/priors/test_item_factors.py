"""Factors of the training ratings, and the rows that start at them."""

import numpy as np
import pytest
import torch
from logs import csv_config, write_log
from scipy import sparse

from greatmeta_dist.data import validate
from greatmeta_dist.data.prepare import most_rated, prepare
from greatmeta_dist.data.store import ITEM_ID, FeatureSpec, Store
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.priors.item_factors import (
    NUM_FACTORS,
    PRIOR_RATINGS,
    item_factors,
)
from greatmeta_dist.training.run_folder import set_up

CHOICE = FeatureSpec(has_item_id=True, list_pooling="mean")


def low_rank_log(num_users=400, num_items=90, rank=4, density=0.4, seed=0):
    """Residuals [users, items] of a few tastes and some noise, and items' ratings."""
    rng = np.random.default_rng(seed)
    tastes = rng.normal(size=(num_users, rank)) * 2.0 ** -np.arange(rank)
    value = tastes @ rng.normal(size=(rank, num_items)) + 0.3 * rng.normal(
        size=(num_users, num_items)
    )
    is_rated = rng.random(value.shape) < density * rng.random(num_items)
    return sparse.csr_matrix(value * is_rated), is_rated.sum(0)


def test_factors_are_those_of_a_whole_eigendecomposition_however_users_are_portioned():
    residuals, count = low_rank_log()
    chunks = [residuals[:150], residuals[150:150], residuals[150:]]
    found = item_factors(lambda: iter(chunks), count, seed=0)
    assert found == pytest.approx(item_factors(lambda: [residuals], count, seed=0), abs=1e-3)
    other = item_factors(lambda: [residuals], count, seed=1)
    assert found[:, :4] == pytest.approx(other[:, :4], rel=0.02, abs=0.02)

    scaled = residuals.toarray() / np.sqrt(count + PRIOR_RATINGS)
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    values, vectors = values[::-1], vectors[:, ::-1]
    strength = np.maximum(values[:NUM_FACTORS] - values[NUM_FACTORS], 0)
    gram = (vectors[:, :NUM_FACTORS] * strength) @ vectors[:, :NUM_FACTORS].T
    gram *= count.sum() / (count @ np.diag(gram))
    assert np.abs(found @ found.T - gram).max() < 0.02 * np.abs(gram).max()
    assert count @ (found**2).sum(1) == pytest.approx(count.sum())
    size = (found**2).sum(0)
    assert (np.diff(size) <= 1e-3 * size[0]).all()


@pytest.mark.parametrize("num_items", [1, 3, NUM_FACTORS + 1])
def test_few_items_have_fewer_factors_and_nothing_in_common_has_none(num_items):
    residuals, count = low_rank_log(num_items=num_items, rank=1)
    found = item_factors(lambda: [residuals], count, seed=0)
    assert found.shape == (num_items, NUM_FACTORS)
    assert np.isfinite(found).all()
    assert not found[:, num_items:].any()
    nothing = item_factors(lambda: [residuals * 0], count, seed=0)
    assert not nothing.any()


def test_items_of_no_training_rating_have_no_factors():
    assert most_rated(np.array([3, 0, 1, 0, 7]), 9).tolist() == [0, 2, 4]
    assert most_rated(np.array([3, 0, 1, 0, 3]), 1).tolist() == [0]


def test_store_has_factors_of_training_users_alone(tmp_path):
    path = write_log(tmp_path)
    prepare(csv_config(path), tmp_path / "store")
    store = Store(tmp_path / "store")
    item, factors = store.item_factors()
    count, _ = store.item_statistics()
    assert item.tolist() == np.flatnonzero(count).tolist()
    assert count[item] @ (factors**2).sum(1) == pytest.approx(count.sum(), rel=1e-4)

    held_out = {*store.part("valid", CHOICE).user, *store.part("user_cold", CHOICE).user}
    lines = path.read_text().splitlines()
    flipped = [
        ",".join([u, i, str(6 - int(r)), t]) if u in held_out else f"{u},{i},{r},{t}"
        for u, i, r, t in (line.split(",") for line in lines[1:])
    ]
    path.write_text("\n".join([lines[0], *flipped]) + "\n")
    prepare(csv_config(path), tmp_path / "other")
    assert np.array_equal(Store(tmp_path / "other").item_factors()[1], factors)


def test_a_large_log_is_factored_by_its_first_users(tmp_path, monkeypatch):
    path = write_log(tmp_path)
    monkeypatch.setattr(validate, "BUCKET_BYTES", 2000)
    prepare(csv_config(path), tmp_path / "whole")
    read = []
    load = sparse.load_npz
    monkeypatch.setattr(sparse, "load_npz", lambda path: read.append(path.name) or load(path))
    monkeypatch.setattr("greatmeta_dist.priors.item_factors.MAX_RATINGS", 250)
    monkeypatch.setattr("greatmeta_dist.priors.bayesian_mf.MAX_RATINGS", 250)
    prepare(csv_config(path), tmp_path / "first")
    num_read = len(set(read))
    assert 1 < num_read < Store(tmp_path / "whole").manifest.shards["train"]
    item, factors = Store(tmp_path / "first").item_factors()
    assert np.isfinite(factors).all()
    assert 0 < len(item) <= len(Store(tmp_path / "whole").item_factors()[0])


@pytest.mark.parametrize("width", [4, NUM_FACTORS + 8])
def test_items_own_rows_start_at_their_factors_and_no_other_row_does(tmp_path, width):
    prepare(csv_config(write_log(tmp_path)), tmp_path / "store")
    store = Store(tmp_path / "store")

    def rows(item_init):
        options = [f"model.embedding_dim={width}", f"model.item_init={item_init}"]
        config = compose_config(
            [f"store={tmp_path / 'store'}", "model.embedding_std=0.5", *options]
        )
        return set_up(config, store).worker.table.weight

    moved = rows("factors") - rows("random")
    item, factors = store.item_factors()
    names = [f.name for f in store.fields("item", CHOICE)]
    field = store.item_features(CHOICE).fields[names.index(ITEM_ID)]
    expected = torch.zeros_like(moved)
    kept = min(width, NUM_FACTORS)
    for i, values in zip(item, factors, strict=True):
        (row,) = field.values[field.offsets[i] : field.offsets[i + 1]]
        expected[row, :kept] = torch.tensor(values[:kept]) * 0.5 * width**0.5
    assert expected.abs().sum() > 0
    assert torch.allclose(moved, expected, atol=1e-6)
