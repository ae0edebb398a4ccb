"""All priors together: fitted, written, read back, and joined by one of a user's package."""

import json
import subprocess
import sys
from importlib import invalidate_caches
from pathlib import Path

import numpy as np
import pytest
import torch
from fitted import OPTIONS, fit_all, untold
from logs import csv_config, write_log
from low_rank import write_low_rank_log
from stores import CHOICE
from threadpoolctl import threadpool_info, threadpool_limits

from greatmeta_dist.config import Config, DataConfig, PriorsConfig
from greatmeta_dist.config.priors import BayesianMFConfig
from greatmeta_dist.data import scan
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import InputError
from greatmeta_dist.extensions import PRIORS
from greatmeta_dist.priors.base import Prior, RatingPrior
from greatmeta_dist.priors.bias import BiasPrior
from greatmeta_dist.priors.fit import (
    MANIFEST,
    REQUIRED,
    fit_priors,
    priors_key,
    rating_priors,
    read_key,
    read_priors,
    write_priors,
)
from greatmeta_dist.training.build import build_model

SMALL = DataConfig(users=300, items=120)
"""Synthetic data: items have features, and users make groups."""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("fit") / "store"
    prepare(SMALL, folder)
    return Store(folder)


@pytest.fixture(scope="module")
def priors(store):
    return fit_all(store)


@pytest.fixture
def written(tmp_path, priors) -> Path:
    write_priors(tmp_path, priors, "a key")
    return tmp_path


def assert_same_bits(one: Prior, other: Prior) -> None:
    (arrays, details), (other_arrays, other_details) = one.state(), other.state()
    assert details == other_details
    assert arrays.keys() == other_arrays.keys()
    for name, array in arrays.items():
        assert array.dtype == other_arrays[name].dtype
        assert np.array_equal(array, other_arrays[name]), name


def test_every_prior_is_fitted_in_order_and_progress_only_grows(store):
    stages: dict[str, None] = {}
    fractions = []

    def progress(stage, fraction):
        stages[stage] = None
        fractions.append(fraction)

    priors = fit_priors(store.training_rows(), OPTIONS, progress)
    assert tuple(priors) == REQUIRED == tuple(PRIORS.names())[: len(REQUIRED)]
    assert list(stages) == [
        "content regression",
        "biases",
        "item factors",
        "Bayesian factorisation",
        "user groups",
    ]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] < 1


def test_what_is_read_has_the_bits_of_what_was_written(written, priors, store):
    again = read_priors(written)
    assert tuple(again) == tuple(priors)
    for name, prior in priors.items():
        assert type(again[name]) is type(prior)
        assert_same_bits(again[name], prior)
    tasks = store.split("user_cold", CHOICE).tasks
    groups = [
        p["user_groups"].assign(tasks.support_item, tasks.support_label.values)
        for p in (again, priors)
    ]
    assert np.array_equal(*groups)
    residual = tasks.support_label.values.astype(np.float64)
    predicted = [
        p["bayesian_mf"].predict_residual(tasks.support_item, residual, tasks.query_item)[0]
        for p in (again, priors)
    ]
    assert np.array_equal(*predicted)


def test_priors_of_users_in_one_group_are_read_back(tmp_path):
    prepare(csv_config(write_log(tmp_path)), tmp_path / "store")
    priors = fit_all(Store(tmp_path / "store"))
    (tmp_path / "priors").mkdir()
    write_priors(tmp_path / "priors", priors, "k")
    again = read_priors(tmp_path / "priors")
    for name, prior in priors.items():
        assert_same_bits(again[name], prior)


class Transposed(Prior):
    """Its array is a view whose memory holds the numbers in another order."""

    def __init__(self, array):
        self.array = array

    @classmethod
    def fit(cls, rows, options, *, fitted, progress):
        return cls(np.arange(6.0).reshape(2, 3).T)

    def state(self):
        return {"transposed": self.array, "some": self.array[::2, 1]}, {}

    @classmethod
    def from_state(cls, arrays, details, *, fitted):
        assert arrays["some"].tolist() == [3.0, 5.0]
        return cls(arrays["transposed"])


def test_arrays_that_are_not_contiguous_survive(tmp_path, monkeypatch):
    prior = Transposed.fit(None, OPTIONS, fitted={}, progress=untold)
    monkeypatch.setattr(PRIORS, "get", lambda name: {"transposed": Transposed}[name])
    write_priors(tmp_path, {"transposed": prior}, "k")
    assert np.array_equal(read_priors(tmp_path)["transposed"].array, prior.array)


@pytest.mark.parametrize(
    "name", ["bias.safetensors", "user_groups.json", "bayesian_mf.safetensors"]
)
def test_a_damaged_file_is_refused_in_one_line(written, name):
    data = bytearray((written / name).read_bytes())
    data[len(data) // 2] ^= 1
    (written / name).write_bytes(data)
    with pytest.raises(InputError, match=f"{name} does not match its hash") as refusal:
        read_priors(written)
    message = str(refusal.value)
    assert str(written) in message
    assert "restore that folder from a copy" in message
    assert "\n" not in message
    (written / name).unlink()
    with pytest.raises(InputError, match="restore that folder from a copy"):
        read_priors(written)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"key": "a key", "names": 3, "hashes": {}}'])
def test_a_damaged_manifest_is_refused_in_one_line(written, content):
    (written / MANIFEST).write_text(content)
    with pytest.raises(InputError, match="are damaged") as refusal:
        read_priors(written)
    assert "\n" not in str(refusal.value)


def test_the_key_of_a_folder_is_none_until_all_is_written(tmp_path, priors):
    assert read_key(tmp_path) is None
    write_priors(tmp_path, priors, "a key")
    assert read_key(tmp_path) == "a key"
    (tmp_path / MANIFEST).write_text("half of")
    assert read_key(tmp_path) is None


def test_the_key_is_of_store_options_and_versions(monkeypatch):
    key = priors_key("store", PriorsConfig())
    assert key == priors_key("store", PriorsConfig())
    others = [
        priors_key("another store", PriorsConfig()),
        priors_key("store", PriorsConfig(seed=1)),
        priors_key("store", PriorsConfig(bayesian_mf=BayesianMFConfig(num_passes=21))),
    ]
    monkeypatch.setattr(BiasPrior, "version", 999)
    others.append(priors_key("store", PriorsConfig()))
    assert len({key, *others}) == 5


def test_number_of_shards_does_not_matter(tmp_path, monkeypatch):
    path = write_low_rank_log(tmp_path)
    prepare(csv_config(path), tmp_path / "one")
    monkeypatch.setattr(scan, "BUCKET_BYTES", 2000)
    prepare(csv_config(path), tmp_path / "many")
    stores = [Store(tmp_path / name) for name in ("one", "many")]
    shards = [store.manifest.shards["train"] for store in stores]
    assert shards[1] > shards[0]
    one, many = (fit_all(store) for store in stores)
    for damping in ("item_damping", "user_damping"):
        assert getattr(one["bias"].model, damping) == pytest.approx(
            getattr(many["bias"].model, damping)
        )
    grams = [f @ f.T for f in (p["item_factors"].factors for p in (one, many))]
    assert np.abs(grams[0]).max() > 1
    assert grams[0] == pytest.approx(grams[1], abs=1e-3)


WITH_THREADS = """
import sys
from pathlib import Path
import torch
from greatmeta_dist.config import PriorsConfig
from greatmeta_dist.config.priors import BayesianMFConfig, ContentConfig
from greatmeta_dist.data.store import Store
from greatmeta_dist.priors.fit import fit_priors, write_priors
torch.set_num_threads(int(sys.argv[3]))
options = PriorsConfig(
    content=ContentConfig(num_folds=2, penalties=[1.0, 30.0], tree_iterations=10),
    bayesian_mf=BayesianMFConfig(num_starts=1, num_passes=10),
)
priors = fit_priors(Store(Path(sys.argv[1])).training_rows(), options, lambda *_: None)
write_priors(Path(sys.argv[2]), priors, "k")
"""


def test_one_and_two_threads_give_the_same_bits(tmp_path, monkeypatch):
    # Large enough for BLAS to share its work among threads.
    prepare(DataConfig(users=1200), tmp_path / "store")
    hashes = []
    for threads in ("1", "2"):
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            monkeypatch.setenv(variable, threads)
        folder = tmp_path / threads
        folder.mkdir()
        arguments = [str(tmp_path / "store"), str(folder), threads]
        subprocess.run([sys.executable, "-c", WITH_THREADS, *arguments], check=True)
        hashes.append(json.loads((folder / MANIFEST).read_text())["hashes"])
    assert hashes[0] == hashes[1]


def test_threads_are_as_before_once_priors_are_fitted(store):
    def threads() -> dict[str, int]:
        return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}

    num_threads, during = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        with threadpool_limits(2):
            before = threads()
            fit_priors(
                store.training_rows(), OPTIONS, lambda *_: during.append(torch.get_num_threads())
            )
            assert set(during) == {1}
            assert torch.get_num_threads() == 2
            assert set(before.values()) == {2}
            assert threads() | before == threads()
    finally:
        torch.set_num_threads(num_threads)


POPULARITY = '''
import numpy as np
from greatmeta_dist.priors.base import RatingPrior


class Popularity(RatingPrior):
    """Predicts that items of many ratings are rated higher."""

    def __init__(self, slope, count):
        self.slope, self.count = slope, count

    @classmethod
    def fit(cls, rows, options, *, fitted, progress):
        progress("popularity", 0)
        content = fitted["bias"].model.content_mean
        mean = rows.item_sum / np.maximum(rows.item_count, 1)
        count = rows.item_count.astype(np.float64)
        slope = np.sum(count**2 * (mean - content)) / np.sum(count**3)
        return cls(float(slope), count)

    def state(self):
        return {"count": self.count}, {"slope": self.slope}

    @classmethod
    def from_state(cls, arrays, details, *, fitted):
        return cls(details["slope"], arrays["count"])

    def predict_residual(self, support, residual, query):
        count = self.count[query.values]
        return self.slope * count, count > 0
'''


@pytest.fixture
def popularity_package(tmp_path, monkeypatch):
    """Another package with a prior of its own, as pip would install it."""
    (tmp_path / "popularity_package.py").write_text(POPULARITY)
    info = tmp_path / "popularity_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: popularity-package\nVersion: 1.0\n"
    )
    (info / "entry_points.txt").write_text(
        "[greatmeta_dist.priors]\npopularity = popularity_package:Popularity\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    invalidate_caches()
    yield
    sys.modules.pop("popularity_package", None)
    invalidate_caches()


def test_a_package_adds_a_prior_by_one_file_and_one_entry_point(
    popularity_package, store, tmp_path, monkeypatch
):
    with pytest.raises(InputError, match=r"extra names 'popularitas'; there is .*, popularity"):
        PriorsConfig(extra=["popularitas"])
    options = PriorsConfig(extra=["popularity"])
    priors = fit_all(store, options)
    assert tuple(priors) == (*REQUIRED, "popularity")
    folder = tmp_path / "priors"
    folder.mkdir()
    write_priors(folder, priors, "k")
    again = read_priors(folder)
    assert_same_bits(again["popularity"], priors["popularity"])

    both = rating_priors(again, use_bayesian_mf=True)
    assert [type(prior).__name__ for prior in both] == ["BayesianMFPrior", "Popularity"]
    assert rating_priors(again, use_bayesian_mf=False) == [again["popularity"]]
    assert isinstance(again["popularity"], RatingPrior)

    scorer = build_model(Config(priors=options), store, again).scorer
    tasks = store.split("user_cold", CHOICE).tasks
    content_mean = again["bias"].model.content_mean
    residual = tasks.support_label.values - content_mean[tasks.support_item.values]
    residuals = [
        prior.predict_residual(tasks.support_item, residual, tasks.query_item) for prior in both
    ]
    by_hand = content_mean[tasks.query_item.values] + np.mean([r for r, _ in residuals], axis=0)
    predicted, is_known = scorer.blend.predict(tasks)
    ratings = store.manifest.ratings
    assert predicted == pytest.approx(np.clip(by_hand, ratings.lowest, ratings.highest))
    assert np.array_equal(is_known, np.minimum(residuals[0][1], residuals[1][1]))

    key = priors_key("store", options)
    assert key != priors_key("store", PriorsConfig())
    monkeypatch.setattr(type(again["popularity"]), "version", 2)
    assert priors_key("store", options) != key


def test_priors_of_a_package_that_is_gone_are_refused_in_one_line(
    popularity_package, store, tmp_path, monkeypatch
):
    folder = tmp_path / "priors"
    folder.mkdir()
    write_priors(folder, fit_all(store, PriorsConfig(extra=["popularity"])), "k")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    with pytest.raises(InputError, match="no prior is called 'popularity'; there is bias, ") as no:
        read_priors(folder)
    assert "\n" not in str(no.value)
