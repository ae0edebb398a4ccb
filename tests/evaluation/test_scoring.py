"""A split's users are scored once each, whoever scores them and with whatever else is scored."""

import numpy as np
import pyarrow as pa
import pytest
from threaded_workers import run_workers

from greatmeta_dist.batching.resample import shorten
from greatmeta_dist.data.store import Store
from greatmeta_dist.evaluation.scoring import score_split
from greatmeta_dist.training.build import build_model


def test_predictions_are_those_of_each_user_alone(predictor, store):
    shard, spec = Store(store).shard("user_cold", 0), predictor.feature_spec
    tasks = Store(store).tasks_of(shard, spec).tasks
    together = predictor.scorer.predict(tasks)
    assert set(together) == {"unadapted", "adapted"}
    assert not np.array_equal(together["unadapted"], together["adapted"])
    alone = [
        predictor.scorer.predict(Store(store).tasks_of(shard.take(pa.array([user])), spec).tasks)
        for user in range(shard.num_rows)
    ]
    for name, ratings in together.items():
        joined = np.concatenate([of_user[name] for of_user in alone])
        assert joined == pytest.approx(ratings, abs=1e-5)
    assert np.array_equal(predictor.score_tasks(tasks), together["adapted"])


def test_alone_and_with_no_weight_the_model_predicts_by_itself(predictor, store):
    tasks = Store(store).split("user_cold", predictor.feature_spec).tasks
    scorer = predictor.scorer
    by_itself = scorer.predict_model(tasks)
    for other in (scorer.alone(), scorer.with_blend_weight(0.0)):
        for name, ratings in other.predict(tasks).items():
            assert np.array_equal(ratings, by_itself[name])
    assert not np.array_equal(scorer.predict(tasks)["adapted"], by_itself["adapted"])


@pytest.mark.parametrize("split", ["valid", "user_cold", "warm"])
def test_workers_share_a_split_and_get_the_bits_of_one(predictor, store, split, monkeypatch):
    monkeypatch.setattr("greatmeta_dist.evaluation.scoring.USERS_PER_BATCH", 5)
    config, priors = predictor.config, predictor.model.priors
    others = predictor.baselines()

    def score(communicator):
        model = build_model(config, Store(store), priors, communicator)
        model.worker.broadcast_averaged_params()
        return score_split(model.scorer, Store(store), split, others=others)

    (alone,) = run_workers(1, score)
    assert len(alone.group) == Store(store).manifest.splits[split]
    for size in (2, 4):
        scored, *elsewhere = run_workers(size, score)
        assert elsewhere == [None] * (size - 1)
        assert np.array_equal(scored.group, alone.group)
        assert np.array_equal(scored.chance, alone.chance, equal_nan=True)
        assert list(scored.models) == list(alone.models)
        for name, metrics in scored.models.items():
            assert metrics.summary() == alone.models[name].summary()


def test_of_many_users_about_so_many_are_scored(predictor, store):
    total = Store(store).manifest.splits["user_cold"]
    scored = score_split(predictor.scorer, Store(store), "user_cold", max_users=total // 3)
    assert total // 3 <= len(scored.group) < total


def test_a_limited_support_is_all_that_any_model_sees(predictor, store):
    def limit(tasks):
        return shorten(tasks, 2)

    def score(**options):
        others = predictor.baselines()
        return score_split(predictor.scorer, Store(store), "user_cold", others=others, **options)

    limited, full = score(limit_support=limit).models, score().models
    tasks = limit(Store(store).split("user_cold", predictor.feature_spec).tasks)
    assert set(tasks.support_item.lengths) == {2}
    for name in full:
        is_personal = name not in ("global_mean", "item_mean")
        assert (limited[name].summary()["mae"] != full[name].summary()["mae"]) == is_personal
