"""A run is the model: it predicts by itself, with priors and a blend weight of its own."""

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from logs import csv_config, write_log
from small_training import prepare_store, small

from greatmeta_dist.batching.read import read_split
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.display import Display
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.engine.worker import Worker
from greatmeta_dist.errors import InputError
from greatmeta_dist.evaluation.blend import DEFAULT_WEIGHT
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.predict import Predictor
from greatmeta_dist.training.loop import train
from greatmeta_dist.training.prior_cache import cache_folder
from greatmeta_dist.training.saved_model import SavedModel


def tasks_of(predictor: Predictor, store: Path) -> list[TaskTable]:
    spec = predictor.feature_spec
    batches = read_split(Store(store), "user_cold", spec, users_per_batch=16)
    return [batch.tasks for batch in batches]


@pytest.mark.parametrize("label", ["rating", "click"])
def test_with_the_store_deleted_a_run_loads_and_predicts_the_same(tmp_path, label):
    store, run = tmp_path / "store", tmp_path / "run"
    if label == "rating":
        prepare_store(tmp_path)
    else:
        prepare(csv_config(write_log(tmp_path, num_users=120), label=label), store)
    train(small(store), run, Display())
    before = Predictor.load(run)
    tasks = tasks_of(before, store)
    copies = [replace(table) for table in tasks]
    expected = [before.scorer.predict(table) for table in tasks]
    baselines = [before.baselines().predict(table) for table in tasks]
    shutil.rmtree(store)
    shutil.rmtree(cache_folder(store))
    after = Predictor.load(run, warn=pytest.fail)
    assert after.step == before.step
    for table, scores, of_baselines in zip(copies, expected, baselines, strict=True):
        assert np.array_equal(after.score_tasks(table), scores["adapted"])
        for name, score in after.scorer.predict(table).items():
            assert np.array_equal(score, scores[name])
        for name, score in after.baselines().predict(table).items():
            assert np.array_equal(score, of_baselines[name])
    with pytest.raises(InputError, match="is not a prepared store"):
        after.open_store()


def test_loading_scores_nobody(tmp_path, store, monkeypatch):
    train(small(store), tmp_path / "run", Display())

    def refuse(*_):
        raise AssertionError("somebody is scored")

    with monkeypatch.context() as patched:
        patched.setattr(Worker, "predict", refuse)
        predictor = Predictor.load(tmp_path / "run", warn=pytest.fail)
    assert len(predictor.score_tasks(tasks_of(predictor, store)[0]))


def test_the_blend_weight_belongs_to_the_best_step(tmp_path, store):
    run = tmp_path / "run"
    best = train(small(store, valid_every=4), run, Display())["best"]["step"]
    saved = SavedModel.open(run)
    weight = saved.blend_weight(best)
    assert weight is not None
    assert [saved.blend_weight(step) for step in range(13) if step != best] == [None] * 12
    assert Predictor.load(run, warn=pytest.fail).blend_weight == weight
    predictor = Predictor.load(run)  # the weight is that of the very parameters that are loaded
    assert predictor.scorer.fit_blend_weight(Store(store)) == weight


def test_training_on_fits_a_weight_for_the_new_best_step_only(tmp_path, store, monkeypatch):
    run, fit, fits = tmp_path / "run", Scorer.fit_blend_weight, []
    monkeypatch.setattr(
        Scorer, "fit_blend_weight", lambda *arguments: fits.append(0) or fit(*arguments)
    )
    train(small(store), run, Display())
    train(small(store), run, Display())
    assert len(fits) == 1
    (run / "model" / "blend.json").unlink()
    train(small(store), run, Display())
    assert len(fits) == 2
    metrics = train(small(store, steps=20), run, Display())
    assert SavedModel.open(run).blend_weight(metrics["best"]["step"]) is not None


def test_a_damaged_best_checkpoint_leaves_the_newest_one_with_a_weight_of_its_own(tmp_path, store):
    run, steps = tmp_path / "run", iter(range(1, 13))
    with pytest.raises(KeyboardInterrupt):
        train(small(store), run, Display(), is_stopped=lambda: next(steps) == 7)
    assert Predictor.load(run, warn=pytest.fail).step == 5  # validated, and so the best one
    (run / "checkpoints" / "step-000000005" / "dense.safetensors").write_bytes(b"no")
    said = []
    assert Predictor.load(run, warn=said.append).step == 7
    assert "the best checkpoint, of step 5, is damaged or gone; taking step 7" in said[0]
    assert "no blend weight for step 7" in said[1]
    train(small(store, steps=7), run, Display())
    said = []
    predictor = Predictor.load(run, warn=said.append)
    assert len(said) == 1
    assert predictor.blend_weight == SavedModel.open(run).blend_weight(7)


def test_a_run_killed_before_its_end_predicts_with_the_default_weight_and_says_so(tmp_path, store):
    run = tmp_path / "run"
    words = [f"store={store}", f"run={run}", "train.steps=100000", "train.users_per_batch=8"]
    process = subprocess.Popen(
        [sys.executable, "-m", "greatmeta_dist", "train", *words, "train.checkpoint_every=5"],
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not checkpoint.steps(run / "checkpoints"):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    said = []
    predictor = Predictor.load(run, warn=said.append)
    assert predictor.blend_weight == DEFAULT_WEIGHT
    (line,) = said
    assert f"{run} was not trained to its end and has no blend weight for step" in line
    assert "taking 0.5" in line
    assert len(predictor.score_tasks(tasks_of(predictor, store)[0]))


def test_without_rating_priors_there_is_no_weight_and_nothing_is_said(tmp_path, store):
    config = small(store)
    config = replace(config, model=replace(config.model, use_bayesian_mf=False))
    train(config, tmp_path / "run", Display())
    assert Predictor.load(tmp_path / "run", warn=pytest.fail).blend_weight is None
    assert not (tmp_path / "run" / "model" / "blend.json").exists()
