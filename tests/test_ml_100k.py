"""On the real data: the baselines known for the given split, and a model that beats them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from greatmeta_dist.config import Config, DataConfig, TrainConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.display import Display
from greatmeta_dist.evaluation.evaluate import evaluate
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.predict import Predictor
from greatmeta_dist.training.loop import train

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def store(tmp_path_factory, ml100k) -> Path:
    folder = tmp_path_factory.mktemp("ml") / "store"
    prepare(DataConfig(source="recbole", path=str(ml100k), split=str(ml100k / "split.tsv")), folder)
    return folder


def evaluated(config: Config, run: Path) -> dict:
    train(config, run, Display())
    predictor = Predictor.load(run)
    evaluation = evaluate(predictor.scorer, predictor.open_store(), others=predictor.baselines())
    return evaluation["scenarios"]["user_cold"]


def test_baselines_score_what_they_are_known_to(store, tmp_path):
    config = Config(train=TrainConfig(steps=1), store=str(store))
    models = evaluated(config, tmp_path / "run")["models"]
    for name, mae, rmse in (
        ("global_mean", 0.922, 1.090),
        ("item_mean", 0.816, 1.003),
        ("bias", 0.763, 0.955),
    ):
        assert models[name]["mae"] == pytest.approx(mae, abs=0.003)
        assert models[name]["rmse"] == pytest.approx(rmse, abs=0.003)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_default_model_beats_the_bias_row(store, tmp_path):
    """Adapted beats unadapted in RMSE; in MAE the two are equal here (docs/decisions.md)."""
    config = compose_config(["experiment=ml-100k", f"store={store}"])
    results = []
    for seed in range(2):
        seeded = replace(config, train=replace(config.train, seed=seed))
        results.append(evaluated(seeded, tmp_path / str(seed))["models"])
    mean = {
        (model, metric): np.mean([models[model][metric] for models in results])
        for model in ("adapted", "unadapted")
        for metric in ("rmse", "mae")
    }
    assert mean["adapted", "rmse"] < 0.930
    assert mean["adapted", "mae"] < 0.735
    assert mean["adapted", "rmse"] < mean["unadapted", "rmse"]
