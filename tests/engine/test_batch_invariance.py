"""Users get the same bits among whichever lanes; a step dispatches few operations."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.operations import count_step
from benchmarks.untrained import training_lanes, untrained_model
from greatmeta_dist.batching.length_buckets import support_buckets
from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.engine import batch_invariance
from greatmeta_dist.meta.padding import Padding
from greatmeta_dist.options.compose import compose_config

MAX_OPERATIONS = {"native": 1000, "torch": 1500}
"""Of torch, by how users adapt, in a step of the shipped form with up to two length buckets,
whatever the number of lanes."""
PRIORS = (
    "priors.bayesian_mf.max_items=100",
    "priors.bayesian_mf.num_passes=2",
    "priors.bayesian_mf.num_starts=1",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Users of 3 rows to hundreds: supports of one row, and some longer than a block of a sum."""
    folder = tmp_path_factory.mktemp("tail") / "store"
    prepare(DataConfig(users=500, items=600, mean_interactions=120), folder)
    return Store(folder)


def trained_by(store: Store, *words: str):
    config = compose_config([f"store={store.folder}", *PRIORS, *words])
    model = untrained_model(config, store)
    return model.worker, training_lanes(config, store, model)


@pytest.mark.parametrize("adaptation", ["native", "torch"])
@pytest.mark.parametrize("users", [8, 32, 128])
def test_users_get_the_same_bits_as_one_batch_and_lane_by_lane(store, users, adaptation):
    words = [f"train.users_per_batch={users}", f"cluster.adaptation={adaptation}"]
    worker, lanes = trained_by(store, "train.lanes=8", *words)
    assert lanes.lanes_per_batch == 8
    lengths = []
    for number in range(2):
        together = lanes.step(number)
        lengths += together.num_support.tolist()
        for size in (1, 2):
            apart = lanes.step(number, lanes_per_batch=size)
            assert len(apart.batch.batches) == 8 // size
            assert apart.user == together.user
            assert worker.is_batch_invariant(together.batch, apart.batch)
    if users == 128:
        assert min(lengths) <= 2
        assert max(lengths) > 192


@pytest.mark.parametrize("adaptation", ["native", "torch"])
@pytest.mark.parametrize(("width", "hidden", "fewest"), [(4, 8, 50), (8, 16, 25), (16, 32, 16)])
def test_users_of_narrow_models_get_the_same_bits_however_far_they_are_padded(
    store, width, hidden, fewest, adaptation
):
    words = [f"model.embedding_dim={width}", f"model.hidden=[{hidden}]"]
    words.append(f"cluster.adaptation={adaptation}")
    worker, lanes = trained_by(store, "train.lanes=4", "train.users_per_batch=16", *words)
    assert worker.padding.fewest == fewest
    lengths = []
    for number in range(12):
        together = lanes.step(number)
        lengths += together.num_support.tolist()
        for other in (
            lanes.step(number, lanes_per_batch=1),
            lanes.step(number, is_furthest=True),
        ):
            assert worker.is_batch_invariant(together.batch, other.batch)
    assert min(lengths) < 16
    assert max(lengths) > 50


def test_lanes_of_models_that_are_too_narrow_share_no_batch(store):
    _, lanes = trained_by(store, "train.lanes=4", "model.hidden=[2]")
    assert lanes.lanes_per_batch == 1


def test_a_users_dependence_on_its_batch_is_seen(store, monkeypatch):
    worker, lanes = trained_by(store, "train.lanes=8")
    original = batch_invariance.task_results

    def dependent(model, batch, *args, **options):
        results = original(model, batch, *args, **options)
        factor = 1 + batch.num_users * torch.finfo(torch.float32).eps
        return replace(results, losses=results.losses * factor)

    monkeypatch.setattr(batch_invariance, "task_results", dependent)
    together, apart = lanes.step(0), lanes.step(0, lanes_per_batch=1)
    assert not worker.is_batch_invariant(together.batch, apart.batch)


@pytest.mark.parametrize("adaptation", MAX_OPERATIONS)
@pytest.mark.parametrize("num_lanes", [1, 8])
def test_a_step_dispatches_few_operations_whatever_the_number_of_lanes(
    tmp_path, num_lanes, adaptation
):
    prepare(DataConfig(users=500, items=600), tmp_path / "store")
    words = [f"train.lanes={num_lanes}", f"cluster.adaptation={adaptation}"]
    worker, lanes = trained_by(Store(tmp_path / "store"), *words)
    count, num_buckets = count_step(worker, lanes)
    assert num_buckets <= 2
    assert count.total <= MAX_OPERATIONS[adaptation]


def test_supports_are_padded_to_lengths_that_sums_bear():
    lengths = np.array([1, 3, 40, 44, 190, 193, 250, 500, 1000])
    buckets = support_buckets(lengths, Padding(turning_points=(42,)))
    assert sorted(np.concatenate([users for users, _ in buckets]).tolist()) == list(range(9))
    for users, num_rows in buckets:
        assert num_rows >= 16
        assert lengths[users].max() <= num_rows
        assert len({length <= 42 for length in lengths[users]}) == 1
        if num_rows > 192:
            assert num_rows in (288, 432, 648, 972, 1458)


def test_without_inner_steps_a_step_is_taken(store):
    worker, lanes = trained_by(store, "inner.steps=0")
    report = worker.step(lanes.step(0).batch)
    assert report.is_finite.all()
    assert torch.equal(*report.user_statistics.losses.unbind(1))
