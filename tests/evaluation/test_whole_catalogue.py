"""Clicked items are ranked among all items that their user does not know."""

import json

import numpy as np
import pytest
from logs import csv_config, write_log
from stores import rows_of

from greatmeta_dist.cli import main
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.evaluation import whole_catalogue
from greatmeta_dist.evaluation.metrics.ranking import ranking
from greatmeta_dist.predict import Predictor

TINY = ["train.steps=20", "train.users_per_batch=8", "model.hidden=[8]", "train.valid_every=10"]


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

    monkeypatch.setattr(whole_catalogue, "ranking", counted)
    run = f"run={tmp_path}/run"
    assert main(["train", f"store={tmp_path}/store", run, *TINY]) == 0
    assert main(["evaluate", run]) == 0
    out = capsys.readouterr().out
    assert "loss 0." in out
    assert "whole catalogue" in out
    scenarios = json.loads((tmp_path / "run" / "evaluation.json").read_text())["scenarios"]
    user_cold = scenarios["user_cold"]
    assert 0 < user_cold["models"]["adapted"]["auc"] < 1
    assert set(user_cold["catalogue"]) == set(user_cold["models"])
    assert all(0 <= v <= 1 for v in user_cold["catalogue"]["adapted"].values())
    assert "hr@10" in user_cold["catalogue"]["adapted"]
    support = rows_of(Store(tmp_path / "store"), "user_cold").filter(role="support")
    met = support.filter(label=1) if is_implicit else support
    assert len(met) in known
    assert is_implicit == (len(support) not in known)


def test_a_catalogue_is_ranked_as_well_in_slices(tmp_path, monkeypatch):
    prepare(csv_config(write_log(tmp_path), label="click"), tmp_path / "store")
    assert main(["train", f"store={tmp_path}/store", f"run={tmp_path}/run", *TINY]) == 0
    predictor = Predictor.load(tmp_path / "run")
    store, scores = Store(tmp_path / "store"), []

    def noted(score, *known_and_clicked):
        scores[-1].append(score)
        return ranking(score, *known_and_clicked)

    monkeypatch.setattr(whole_catalogue, "ranking", noted)
    summaries = []
    for items_per_batch in (4096, 7):
        monkeypatch.setattr(whole_catalogue, "ITEMS_PER_BATCH", items_per_batch)
        scores.append([])
        others = predictor.baselines()
        summaries.append(
            whole_catalogue.rank_in_catalogue(
                predictor.scorer, store, "user_cold", others=others
            ).summary()
        )
    for whole, in_slices in zip(*scores, strict=True):
        assert whole.shape[1] == store.manifest.num_items
        assert in_slices == pytest.approx(whole, abs=1e-6)
    bias = [summary["bias"] for summary in summaries]
    assert bias[0] == bias[1]
    assert np.isfinite(list(bias[0].values())).all()
