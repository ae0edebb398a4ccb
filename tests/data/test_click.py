"""Clicks, from ratings or from logs of clicks alone: what is refused, training, evaluation."""

import json

import numpy as np
import pytest
from logs import csv_config, write_log
from stores import CHOICE, rows_of

from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.cli import main
from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import InputError
from greatmeta_dist.evaluation.metrics import ranking


@pytest.mark.parametrize("click_at, share", [(0.5, "100%"), (6.0, "0%")])
def test_clicks_of_one_kind_are_refused(tmp_path, click_at, share):
    config = csv_config(write_log(tmp_path), label="click", click_at=click_at)
    with pytest.raises(InputError, match=f"{share} of the training rows are clicks"):
        prepare(config, tmp_path / "store")


def test_no_rating_column_needs_clicks():
    with pytest.raises(InputError, match=r"data.columns.rating is null, and data.label is rating"):
        DataConfig(source="csv", path="x", columns=ColumnsConfig("u", "i", None))


def test_chances_are_expected_ones_where_the_model_adds_nothing(tmp_path):
    prepare(csv_config(write_log(tmp_path), label="click"), tmp_path / "store")
    store = Store(tmp_path / "store")
    tasks = store.split("user_cold", CHOICE).tasks
    labels = TargetTransform.of(store, "bias")
    _, expected = labels.expected(tasks, is_training=False)
    found = labels.to_rating(tasks)(np.zeros(len(expected)))
    assert found == pytest.approx(np.clip(expected, 0.02, 0.98))
    assert (labels.to_rating(tasks)(np.ones(len(expected))) > found).all()


@pytest.mark.parametrize("is_implicit", [False, True])
def test_clicks_train_and_are_evaluated_in_the_whole_catalogue(
    tmp_path, capsys, monkeypatch, implicit, is_implicit
):
    config = implicit if is_implicit else csv_config(write_log(tmp_path), label="click")
    prepare(config, tmp_path / "store")
    known = []

    def counted(scores, is_known, *clicked):
        known.append(is_known.sum())
        return ranking(scores, is_known, *clicked)

    monkeypatch.setattr("greatmeta_dist.evaluation.evaluate.ranking", counted)
    run = f"run={tmp_path}/run"
    tiny = ["train.steps=20", "train.users_per_batch=8", "model.hidden=[8]", "train.valid_every=10"]
    assert main(["train", f"store={tmp_path}/store", run, *tiny]) == 0
    assert main(["evaluate", run]) == 0
    out = capsys.readouterr().out
    assert "loss 0." in out
    assert "whole catalogue" in out
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())["scenarios"]
    user_cold = found["user_cold"]
    assert 0 < user_cold["models"]["adapted"]["auc"] < 1
    assert set(user_cold["catalogue"]) == set(user_cold["models"])
    assert all(0 <= v <= 1 for v in user_cold["catalogue"]["adapted"].values())
    assert "hr@10" in user_cold["catalogue"]["adapted"]
    support = rows_of(Store(tmp_path / "store"), "user_cold").filter(role="support")
    met = support.filter(label=1) if is_implicit else support
    assert len(met) in known
    assert is_implicit == (len(support) not in known)
