"""Any number of workers gives the same bits."""

import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from group_training import (
    STEPS,
    assert_same_at_every_size,
    config_for,
    model_files,
    scalars,
)
from small_training import Lines

from benchmarks.chaos import digest
from greatmeta_dist.batching.lanes import Lanes
from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import FeatureSpec, Store
from greatmeta_dist.display import Display
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.engine.embeddings import block_size
from greatmeta_dist.launch import local
from greatmeta_dist.launch.local import launch
from greatmeta_dist.meta.factor_averages import VISITS_KEPT
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.predict import Predictor
from greatmeta_dist.training.build import Model, build_model
from greatmeta_dist.training.prior_cache import cache_folder
from greatmeta_dist.training.run_config import saved_config
from greatmeta_dist.training.saved_model import SavedModel

SIDES = ("support_item", "query_item")


@pytest.fixture(autouse=True)
def quick_start(monkeypatch):
    """Workers are copies of a process that has imported all: the bits do not depend on it.

    Some seventy workers start here, and imports would take most of the time.
    """
    multiprocessing.set_forkserver_preload(["greatmeta_dist.launch.local"])
    monkeypatch.setattr(local, "START_METHOD", "forkserver")


def test_same_bits_with_1_2_4_and_8_workers_on_uneven_users(uneven, tmp_path):
    store = Store(uneven)
    shards = [store.shard("train", k) for k in range(store.manifest.shards["train"])]
    sizes = {side: [len(v) for s in shards for v in s.column(side)] for side in SIDES}
    assert len(sizes["query_item"]) % 8
    assert min(sizes["query_item"]) == 0
    assert max(sizes["support_item"]) > 40 > 4 > min(sizes["support_item"])
    assert_same_at_every_size(
        uneven, tmp_path, "train.users_per_batch=8", "train.resample_support=false"
    )


def test_same_bits_with_1_2_4_and_8_workers_on_synthetic_data(tmp_path):
    prepare(DataConfig(users=500, items=300), tmp_path / "store")
    store = Store(tmp_path / "store")
    assert "item_id" in [field.name for field in store.fields("item", FeatureSpec(True, False))]
    assert_same_at_every_size(tmp_path / "store", tmp_path)
    target_weights = Predictor.load(tmp_path / "1").scorer.collator.target_weights
    assert (target_weights != 1).any()  # the scheduler has something to learn


@pytest.mark.data
@pytest.mark.parametrize("scheduler", ["balanced", "mlp"])
def test_same_bits_with_1_2_4_and_8_workers_on_ml_100k(ml100k, tmp_path, scheduler):
    config = compose_config(
        ["data=recbole", f"data.path={ml100k}", f"data.split={ml100k}/split.tsv"]
    )
    prepare(config.data, tmp_path / "store")
    assert_same_at_every_size(tmp_path / "store", tmp_path, f"scheduler={scheduler}")


@pytest.mark.parametrize("scheduler", ["mlp", "uniform"])
def test_same_bits_with_look_ahead_and_without_scheduler(uneven, tmp_path, scheduler):
    options = (
        "train.users_per_batch=8",
        f"scheduler={scheduler}",
        "train.row_update=dense",
        "model.embedding_dim=10",  # rows that are no multiple of a cache line
    )
    for workers in (1, 2):
        launch(config_for(uneven, workers, *options), tmp_path / str(workers), Display())
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


def test_priors_have_the_same_bits_whoever_trains(uneven, tmp_path):
    priors = {}
    for workers in (1, 2, 4):
        shutil.rmtree(cache_folder(uneven), ignore_errors=True)
        run = tmp_path / str(workers)
        config = config_for(uneven, workers, "train.users_per_batch=8", "train.steps=2")
        launch(config, run, Display())
        files = model_files(run)
        priors[workers] = {name: files[name] for name in files if name.startswith("priors/")}
        (cached,) = [p for p in cache_folder(uneven).iterdir() if p.is_dir()]
        assert {f"priors/{p.name}": p.read_bytes() for p in cached.iterdir()} == priors[workers]
    assert priors[1] == priors[2] == priors[4]


@pytest.mark.parametrize("workers", [2, 4])
def test_bytes_are_those_of_the_rows_the_sums_of_a_and_the_users(uneven, tmp_path, workers):
    steps = 6
    config = config_for(
        uneven, workers, "train.users_per_batch=8", f"train.steps={steps}", "train.valid_every=1000"
    )
    launch(config, tmp_path / "run", Display())
    curves = scalars(tmp_path / "run")
    model = untrained(tmp_path / "run", uneven)
    by_worker = [lanes_of(model, rank, workers) for rank in range(workers)]
    block = block_size(model.catalogue.manifest.num_rows, workers)

    def away(number: int) -> int:
        """Rows that workers touch and others hold."""
        if number == steps:
            return 0
        rows = [lanes.step(number).batch.rows for lanes in by_worker]
        return sum(int((touched // block != rank).sum()) for rank, touched in enumerate(rows))

    in_a = sum(p.numel() for p in model.worker.layers.values())
    products = [model.worker.layers[f"{name}.weight"] for name in ("encoder", "film")]
    by_lane = in_a - sum(weight.numel() for weight in products)
    of_a, others = 4 * -(-by_lane // workers), workers * (workers - 1)
    of_users = 4 * (8 // workers) * sum(sum(weight.shape) for weight in products)
    width = 4 * config.model.embedding_dim
    columns = 3 + model.worker.factor_sizes.total
    users_away = 8 * (workers - 1) // workers
    # Sums of A: slices to all, then to the first; or, of two, all from the second to the first.
    moved = of_a * workers if workers == 2 else of_a * (others + workers - 1)
    moved += of_users * (workers - 1)
    for number in range(steps):
        now, following = away(number), away(number + 1)
        expected = {
            "fetch_rows": now * width + 8 * others,
            "sum": 2 * now * width + (2 * of_a + of_users) * others,
            "statistics": users_away * columns * 4,
            "weights": users_away * 4,
            "outer_update": now * width + following * 4 + moved + in_a * 4,
        }
        assert {k: curves[f"perf/bytes/{k}"][number] for k in expected} == expected
        assert all(curves[f"perf/seconds/{k}"][number] > 0 for k in expected)


def untrained(run: Path, store: Path) -> Model:
    """A run's model as it was before its training."""
    config = saved_config(run)
    assert config is not None
    return build_model(config, Store(store), SavedModel.open(run).priors())


def lanes_of(model: Model, rank: int = 0, world_size: int = 1) -> Lanes:
    """The lanes that a worker hosts in a model's training."""
    scorer = model.scorer
    return Lanes(
        model.catalogue,
        scorer.collator,
        scorer.feature_spec,
        scorer.grouping,
        model.config.train,
        rank=rank,
        world_size=world_size,
    )


def test_run_goes_on_with_another_number_of_workers(uneven, tmp_path):
    launch(config_for(uneven, 1, "train.users_per_batch=8"), tmp_path / "whole", Display())
    for workers, steps in ((4, 20), (1, 35), (2, STEPS)):
        config = config_for(uneven, workers, "train.users_per_batch=8")
        config = replace(config, train=replace(config.train, steps=steps))
        launch(config, tmp_path / "parts", Display())
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")
    lanes = lanes_of(untrained(tmp_path / "parts", uneven))
    assert torch.equal(remembered_visits(tmp_path / "parts"), visits(lanes))


def remembered_visits(run: Path) -> torch.Tensor:
    newest, _ = checkpoint.load_latest(run / "checkpoints", wanted={"users": None})
    assert newest is not None
    return newest.tables["users"]["visits"].long()


def visits(lanes: Lanes) -> torch.Tensor:
    """How often each training user was met, up to as many as are told apart."""
    met = [bucket.user_index for step in range(STEPS) for bucket in lanes.step(step).batch.batches]
    return torch.bincount(torch.cat(met), minlength=lanes.num_users).clamp(max=VISITS_KEPT)


def test_fast_reduction_learns_the_same_but_for_rounding(uneven, tmp_path):
    for reduction in ("tree", "fast"):
        options = ("train.users_per_batch=8", f"cluster.reduction={reduction}", "train.steps=10")
        launch(config_for(uneven, 4, *options), tmp_path / reduction, Display())
    tree, fast = (
        checkpoint.load_latest(tmp_path / name / "checkpoints")[0].dense
        for name in ("tree", "fast")
    )
    for name in tree:
        if name.startswith("theta."):
            torch.testing.assert_close(fast[name], tree[name], rtol=1e-3, atol=1e-4)


def test_poisoned_user_counts_nothing_is_named_and_too_many_stop(tmp_path):
    lines = ["user,item,rating"]
    for user in range(60):
        for k in range(14):
            item = (user + 3 * k) % 40
            rating = 9 * 10**14 if user == 7 else 1 + (user + item) % 5
            lines.append(f"u{user},i{item},{rating}")
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    config = DataConfig(
        source="csv",
        path=str(tmp_path / "log.csv"),
        valid_fraction=0.0,
        test_fraction=0.0,
        query_items=5,
    )
    prepare(config, tmp_path / "store")
    plain = ["train.users_per_batch=16", "model.target=rating", "train.steps=12"]
    digests = {}
    for workers in (1, 2):
        options = [*plain, "train.max_nonfinite_fraction=0.1"]
        run = tmp_path / str(workers)
        display = Lines()
        launch(config_for(tmp_path / "store", workers, *options), run, display)
        digests[workers] = digest(run)
        if workers == 1:
            assert "users u7" in " ".join(display.lines)
    assert digests[1] == digests[2]
    state = checkpoint.load_latest(tmp_path / "1" / "checkpoints")[0]
    for tensors in (state.dense, *state.tables.values()):
        assert all(t.double().isfinite().all() for t in tensors.values())
    for workers in (1, 2):
        with pytest.raises(RuntimeError, match=r"% of the users is not finite"):
            launch(config_for(tmp_path / "store", workers, *plain), tmp_path / "stop", Lines())
