"""An evaluation has every scenario, model, metric and preference group."""

import pytest

from greatmeta_dist.data.store import Store
from greatmeta_dist.evaluation.evaluate import evaluate


def test_evaluation_has_every_scenario_model_and_metric(predictor, store):
    num_scored = {}
    evaluation = evaluate(
        predictor.scorer,
        Store(store),
        others=predictor.baselines(),
        progress=lambda split, count: num_scored.update({split: count}),
    )
    splits = Store(store).manifest.splits
    scenarios = set(splits) - {"train", "valid"}
    assert set(evaluation["scenarios"]) == scenarios
    assert scenarios == {"warm", "user_cold", "item_cold", "both_cold"}
    assert num_scored == {name: splits[name] for name in scenarios}
    for name, scenario in evaluation["scenarios"].items():
        assert scenario["users"] == splits[name]
        assert list(scenario["models"]) == [
            "global_mean", "item_mean", "bias", "factorisation", "unadapted", "adapted",
        ]  # fmt: skip
        for values in scenario["models"].values():
            assert set(values) == {"mae", "rmse", "ndcg@1", "ndcg@3", "ndcg@5", "ndcg@10"}
        groups = scenario["groups"]
        users = [g["users"] for g in groups["by_group"].values()]
        assert sum(users) == scenario["users"]
        squared = sum(
            g["models"]["adapted"]["rmse"] ** 2 * n
            for g, n in zip(groups["by_group"].values(), users, strict=True)
        )
        if name == "user_cold":  # as many query rows for every user
            expected = scenario["models"]["adapted"]["rmse"] ** 2 * scenario["users"]
            assert squared == pytest.approx(expected)
            minority = groups["minority"]["models"]["adapted"]["rmse"]
            majority = groups["majority"]["models"]["adapted"]["rmse"]
            assert groups["gap"]["adapted"]["rmse"] == pytest.approx(minority - majority)
