"""Training resumes bitwise, refuses another config, and leaves readable records."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from logs import csv_config, write_log
from scipy.optimize import minimize_scalar
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from greatmeta_dist.batching.lanes import Lanes
from greatmeta_dist.batching.target_transform import DEFAULT_BLEND_WEIGHT, TargetTransform
from greatmeta_dist.config import (
    ClusterConfig,
    Config,
    InnerConfig,
    ModelConfig,
    SchedulerConfig,
    TrainConfig,
)
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.errors import InputError
from greatmeta_dist.evaluation.evaluate import (
    BLEND_WEIGHT_DEVIATION,
    evaluate,
    fit_blend_weight,
    score_part,
)
from greatmeta_dist.training import loop as training
from greatmeta_dist.training.loop import train
from greatmeta_dist.training.run_folder import load_run, local_device, set_up


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    items = folder / "items.csv"
    items.write_text("i,kind\n" + "".join(f"i{k},c{k % 5}|d{k % 3}\n" for k in range(50)))
    prepare(
        csv_config(
            write_log(folder, num_users=120),
            items_path=str(items),
            item_features={"kind": "token_list"},
            cold_item_fraction=0.1,
            num_groups=8,
            test_fraction=0.3,
        ),
        folder / "store",
    )
    return folder / "store"


def small(store: Path, **options) -> Config:
    given = {"steps": 12, "users_per_batch": 8, "valid_every": 5, "log_every": 2}
    return Config(
        model=ModelConfig(embedding_dim=4, hidden=[8]),
        train=TrainConfig(**{**given, "checkpoint_every": 4, **options}),
        store=str(store),
    )


def final_state(run: Path) -> dict[str, torch.Tensor]:
    found, _ = checkpoint.load_latest(run / "checkpoints")
    assert found is not None
    tables = {f"{t}/{k}": v for t, own in found.tables.items() for k, v in own.items()}
    return found.dense | tables


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("update", ["lazy", "dense"])
@pytest.mark.parametrize("kind", ["balanced", "mlp", "lstm", "groups", "uniform"])
def test_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path, store, kind, update):
    config = replace(small(store, row_update=update), scheduler=SchedulerConfig(kind=kind))
    train(config, tmp_path / "whole", Display())
    for steps in (5, 12):
        part = replace(config, train=replace(config.train, steps=steps))
        train(part, tmp_path / "parts", Display())
    assert_same(final_state(tmp_path / "whole"), final_state(tmp_path / "parts"))


def test_resume_goes_past_a_damaged_checkpoint(tmp_path, store):
    train(small(store), tmp_path / "run", Display())
    expected = final_state(tmp_path / "run")
    newest = checkpoint.steps(tmp_path / "run" / "checkpoints")[-1]
    folder = tmp_path / "run" / "checkpoints" / f"step-{newest:09d}"
    (folder / "dense.safetensors").write_bytes(b"no")
    train(small(store), tmp_path / "run", Display())
    assert_same(final_state(tmp_path / "run"), expected)


def test_several_lanes_train_in_one_process(tmp_path, store):
    metrics = train(small(store, lanes=4), tmp_path / "run", Display())
    assert metrics["step"] == 12
    assert metrics["best"]["rmse"] < 2


def test_run_with_another_config_is_refused_with_the_difference(tmp_path, store):
    train(small(store), tmp_path / "run", Display())
    other = replace(small(store), model=ModelConfig(embedding_dim=8, hidden=[8]))
    with pytest.raises(InputError, match=r"model.embedding_dim was 4, is 8"):
        train(other, tmp_path / "run", Display())
    other = replace(small(store), cluster=ClusterConfig(precision="bf16"))
    with pytest.raises(InputError, match=r"cluster.precision was float32, is bf16"):
        train(other, tmp_path / "run", Display())
    with pytest.raises(InputError, match="is no run"):
        train(small(store), store, Display())


def test_a_refused_store_leaves_the_run_as_it_was(tmp_path, store):
    train(small(store), tmp_path / "run", Display())
    prepare(csv_config(write_log(tmp_path, num_users=120)), tmp_path / "other")
    with pytest.raises(InputError, match="was trained on another store than"):
        train(small(tmp_path / "other"), tmp_path / "run", Display())
    assert load_run(tmp_path / "run", None, Display())[1] > 0


def test_a_start_that_was_killed_before_its_config_can_be_repeated(tmp_path, store):
    (tmp_path / "run").mkdir()
    for name in (".lock", "config.yaml.partial"):
        (tmp_path / "run" / name).touch()
    assert train(small(store, steps=2), tmp_path / "run", Display())["step"] == 2


def test_divergence_stops_the_run_with_advice(tmp_path, store):
    unbounded = ModelConfig(embedding_dim=4, hidden=[8], activation="none")
    config = replace(small(store), model=unbounded, inner=InnerConfig(rate=1e6))
    with pytest.raises(RuntimeError, match=r"not finite.*diverged.*lower inner.learning_rate"):
        train(config, tmp_path / "run", Display())
    assert not any("nan" in p.read_text() for p in tmp_path.rglob("metrics.json"))


def test_divergence_is_said_without_building_every_step_again(tmp_path, store, monkeypatch):
    built = []
    step = Lanes.step
    monkeypatch.setattr(
        Lanes, "step", lambda self, number: built.append(number) or step(self, number)
    )
    config = replace(small(store, log_every=12), inner=InnerConfig(rate=1e30))
    with pytest.raises(RuntimeError, match=r"100.0% of the users is not finite, to step 12"):
        train(config, tmp_path / "run", Display())
    assert len(built) < 12 + 5


def test_a_validation_that_is_not_finite_is_never_the_best(tmp_path, store, monkeypatch):
    score, calls = training.score_part, []

    def scored(worker, store, collator, choice, part, **options):
        found = score(worker, store, collator, choice, part, **options)
        calls.append(part)
        if part == "valid" and calls.count("valid") == 1:
            found.models["adapted"].columns["rmse"]["squared_error"][:] = torch.nan
        return found

    monkeypatch.setattr(training, "score_part", scored)
    metrics = train(small(store), tmp_path / "run", Display())
    assert metrics["best"]["step"] > 5
    assert metrics["best"]["rmse"] < 2


def test_many_validation_users_are_not_all_scored_while_training(tmp_path, store, monkeypatch):
    score, scored = training.score_part, {}

    def counted(worker, store, collator, choice, part, **options):
        found = score(worker, store, collator, choice, part, **options)
        scored[part] = len(found.group)
        return found

    monkeypatch.setattr(training, "score_part", counted)
    monkeypatch.setattr(training, "MAX_VALID_USERS", 3)
    train(small(store), tmp_path / "run", Display())
    assert Store(store).manifest.parts["valid"] > 6
    assert scored["valid"] == 3


def test_evaluation_has_all_threads_whatever_the_training_had(tmp_path, store):
    train(small(store), tmp_path / "run", Display())
    setup, _ = load_run(tmp_path / "run", None, Display())
    of_many = replace(setup.config, cluster=ClusterConfig(workers=2))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        set_up(of_many, setup.store)
        assert torch.get_num_threads() == 3
        set_up(of_many, setup.store, Communicator())
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_workers_that_speak_through_the_host_compute_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    assert local_device().type == "cpu"


def test_a_model_with_nothing_to_tell_items_by_is_refused(tmp_path):
    prepare(csv_config(write_log(tmp_path, num_users=120)), tmp_path / "plain")
    model = ModelConfig(embedding_dim=4, hidden=[8], has_item_id=False)
    config = replace(small(tmp_path / "plain"), model=model)
    with pytest.raises(InputError, match="nothing tells items apart"):
        train(config, tmp_path / "run", Display())


def test_steps_in_which_nobody_counts_are_recorded(tmp_path, store):
    config = small(store, max_nonfinite_fraction=1.0)
    metrics = train(replace(config, inner=InnerConfig(rate=1e30)), tmp_path / "run", Display())
    assert (metrics["step"], metrics["best"]) == (12, None)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), {"scalars": 0})
    events.Reload()
    assert {e.value for e in events.Scalars("train/nonfinite_share")} == {1.0}


def test_tensorboard_holds_every_group_of_tags_and_no_doubled_points(tmp_path, store):
    train(small(store, steps=6), tmp_path / "run", Display())
    train(small(store, steps=12), tmp_path / "run", Display())
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), {"scalars": 0})
    events.Reload()
    scalars, histograms = events.Tags()["scalars"], events.Tags()["histograms"]
    for tag in (
        "train/loss",
        "train/rmse",
        "meta/entropy",
        "meta/effective_sample_size",
        "val/valid/rmse",
        "val/valid/ndcg@5",
        "val/user_cold/rmse",
        "val/both_cold/mae",
        "perf/users_per_s",
        "system/peak_memory_mib",
    ):
        assert tag in scalars
    for prefix in ("meta/weight_by_group/", "meta/weight_by_activity/", "val/valid/rmse_by_group/"):
        assert any(tag.startswith(prefix) for tag in scalars)
    assert {"meta/weights", "meta/magnitude", "meta/gap", "meta/agreement"} <= set(histograms)
    steps = [e.step for e in events.Scalars("train/loss")]
    assert steps == sorted(set(steps)) == [2, 4, 6, 8, 10, 12]


def test_evaluation_has_every_scenario_model_and_metric(tmp_path, store):
    train(small(store), tmp_path / "run", Display())
    setup, _ = load_run(tmp_path / "run", None, Display())
    found = evaluate(setup.worker, setup.store, setup.collator, setup.choice)
    parts = set(setup.store.manifest.parts) - {"train", "valid"}
    assert set(found["scenarios"]) == parts == {"warm", "user_cold", "item_cold", "both_cold"}
    for part, scenario in found["scenarios"].items():
        assert scenario["users"] == setup.store.manifest.parts[part]
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
        if part == "user_cold":  # as many query rows for every user
            expected = scenario["models"]["adapted"]["rmse"] ** 2 * scenario["users"]
            assert squared == pytest.approx(expected)
            minority = groups["minority"]["models"]["adapted"]["rmse"]
            majority = groups["majority"]["models"]["adapted"]["rmse"]
            assert groups["gap"]["adapted"]["rmse"] == pytest.approx(minority - majority)


@pytest.mark.parametrize("label", ["rating", "click"])
def test_the_factorisations_share_is_what_suits_the_validation_users(tmp_path, label):
    store = tmp_path / "store"
    prepare(csv_config(write_log(tmp_path, num_users=120), label=label), store)
    train(small(store), tmp_path / "run", Display())
    setup, _ = load_run(tmp_path / "run", None, Display())
    labels = setup.collator.target_transform

    def penalised(share: float) -> float:
        """The validation users' squared error, with what is believed of the share before."""
        collator = replace(setup.collator, target_transform=replace(labels, blend_weight=share))
        scored = score_part(setup.worker, setup.store, collator, setup.choice, "valid")
        error = float(scored.models["adapted"].columns["rmse"]["squared_error"].sum())
        return (
            error + of_model / rows * ((share - DEFAULT_BLEND_WEIGHT) / BLEND_WEIGHT_DEVIATION) ** 2
        )

    alone = replace(setup.collator, target_transform=replace(labels, factorisations=[]))
    scored = score_part(setup.worker, setup.store, alone, setup.choice, "valid")
    of_model = float(scored.models["adapted"].columns["rmse"]["squared_error"].sum())
    rows = int(scored.models["adapted"].columns["rmse"]["num_rows"].sum())
    assert 0 < labels.blend_weight < 1
    assert labels.blend_weight != DEFAULT_BLEND_WEIGHT
    best = minimize_scalar(penalised, bounds=(0, 1), method="bounded").x
    assert labels.blend_weight == pytest.approx(best, abs=1e-3)

    given = setup.worker, setup.store, alone, setup.choice
    assert fit_blend_weight(*given) == DEFAULT_BLEND_WEIGHT
    config = replace(small(store), model=replace(small(store).model, use_bayesian_mf=False))
    train(config, tmp_path / "without", Display())
    assert (
        load_run(tmp_path / "without", None, Display())[0].collator.target_transform.blend_weight
        == DEFAULT_BLEND_WEIGHT
    )


@dataclass(frozen=True)
class Off(TargetTransform):
    """Predictions that are off by as much, of all rows, or of every other one."""

    model: float = 0.0
    factors: float = 0.0

    def of_model(self, tasks):
        return lambda rows: tasks.query_label.values + self.model

    def factorised(self, tasks):
        rating = tasks.query_label.values
        is_known = np.arange(len(rating)) % 2 == 0
        return rating + np.where(is_known, self.factors, 1e3), is_known


@pytest.mark.parametrize(("model", "factors", "share"), [(1.0, 0.5, 1.0), (0.5, 1.0, 0.0)])
def test_the_factorisations_share_is_never_less_than_nothing_or_more_than_all(
    store, model, factors, share
):
    setup = set_up(small(store), Store(store))
    off = Off(**vars(setup.collator.target_transform), model=model, factors=factors)
    collator = replace(setup.collator, target_transform=off)
    assert fit_blend_weight(setup.worker, setup.store, collator, setup.choice) == share
    nothing = replace(collator, target_transform=replace(off, factors=np.nan))
    assert (
        fit_blend_weight(setup.worker, setup.store, nothing, setup.choice) == DEFAULT_BLEND_WEIGHT
    )


def test_without_validation_users_the_factorisation_has_a_half(tmp_path):
    config = csv_config(write_log(tmp_path), valid_fraction=0.0)
    prepare(config, tmp_path / "store")
    train(small(tmp_path / "store"), tmp_path / "run", Display())
    setup, _ = load_run(tmp_path / "run", None, Display())
    assert setup.collator.target_transform.factorisations
    assert setup.collator.target_transform.blend_weight == DEFAULT_BLEND_WEIGHT


def test_interrupted_run_leaves_a_checkpoint_and_resumes(tmp_path, store):
    run = tmp_path / "run"
    command = [
        sys.executable, "-m", "greatmeta_dist", "train", f"store={store}", f"run={run}",
        "train.steps=100000", "train.users_per_batch=8", "train.checkpoint_every=100000",
        "train.valid_every=100000", "train.log_every=5",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    events = run / "tensorboard"
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size > 5000 for p in events.glob("*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.strip() == "greatmeta: interrupted; run the same command again to go on"
    (step,) = checkpoint.steps(run / "checkpoints")
    assert step > 0
    again = [*command[:-3], *command[-2:], f"train.steps={step + 3}"]
    again[again.index("train.steps=100000")] = "train.keep_checkpoints=3"
    done = subprocess.run(again, capture_output=True, text=True, check=True)
    assert f"resuming {run} after step {step}" in done.stdout
    assert json.loads((run / "metrics.json").read_text())["step"] == step + 3


def test_where_no_group_is_more_difficult_training_is_as_with_uniform_weights(
    store, tmp_path, capsys
):
    """What users rate in this log is drawn alike for all, so there is nothing to balance."""
    found = {}
    for kind in ("balanced", "uniform"):
        config = replace(small(store), scheduler=SchedulerConfig(kind=kind))
        train(config, tmp_path / kind, Display())
        said = capsys.readouterr()
        assert ("all users weigh the same" in said.out + said.err) == (kind == "balanced")
        worker = load_run(tmp_path / kind, None, Display())[0].worker
        found[kind] = {**worker.layers, "rows": worker.table.weight}
    for name, tensor in found["balanced"].items():
        assert torch.equal(tensor, found["uniform"][name]), name
