"""A run goes on from another: what it takes, what starts anew, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from logs import csv_config, write_log
from small_training import Lines, assert_same, final_state, small
from threaded_workers import run_workers

from greatmeta_dist.cli import main
from greatmeta_dist.config import Config, ModelConfig, SchedulerConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.errors import InputError
from greatmeta_dist.predict import Predictor
from greatmeta_dist.training import loop
from greatmeta_dist.training.loop import Training, train
from greatmeta_dist.training.run_config import saved_config
from greatmeta_dist.training.run_folder import open_run


def prepared(folder: Path, log: pl.DataFrame, **options) -> Path:
    folder.mkdir()
    log.write_csv(folder / "log.csv")
    items = folder / "items.csv"
    items.write_text("i,kind\n" + "".join(f"i{k},c{k % 5}|d{k % 3}\n" for k in range(50)))
    features = {"items_path": str(items), "item_features": {"kind": "token_list"}}
    options = features | {"test_fraction": 0.2} | options
    prepare(csv_config(folder / "log.csv", **options), folder / "store")
    return folder / "store"


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> pl.DataFrame:
    return pl.read_csv(write_log(tmp_path_factory.mktemp("log"), num_users=120))


@pytest.fixture(scope="module")
def old(tmp_path_factory, log) -> Path:
    """A store of the first users, who know but 40 of the 50 items."""
    number = pl.col("i").str.strip_prefix("i").cast(pl.Int64)
    part = log.head(1500).filter(number < 40)
    return prepared(tmp_path_factory.mktemp("stores") / "old", part)


@pytest.fixture(scope="module")
def new(tmp_path_factory, log) -> Path:
    return prepared(tmp_path_factory.mktemp("stores") / "new", log)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory, old) -> Path:
    run = tmp_path_factory.mktemp("earlier") / "run"
    train(small(old), run, Display())
    return run


def going_on(store: Path, earlier: Path, **options) -> Config:
    return small(store, from_run=str(earlier), **options)


def opened(config: Config, run: Path, communicator: Communicator | None = None) -> Training:
    """A training before its first step, with what it takes from the earlier run."""
    training = Training.open(config, run, Display(), communicator or Communicator())
    earlier = loop.EarlierRun.open(Path(config.train.from_run or ""))
    training.checkpoints.start_from(earlier, config)
    return training


def rows_by_value(store: Store) -> dict[tuple[str, str | None], int]:
    """The embedding row of each feature's value; None stands for unknown values."""
    rows: dict[tuple[str, str | None], int] = {}
    for field in store.manifest.fields:
        values, of_values = store.vocabulary(field)
        rows |= {
            (field.name, v): int(r) for v, r in zip(values.to_pylist(), of_values, strict=True)
        }
        rows[field.name, None] = field.unknown_row
    return rows


def test_rows_are_matched_by_feature_and_value_and_others_are_fresh(tmp_path, new, earlier):
    config, run = going_on(new, earlier), tmp_path / "run"
    display = Lines()
    with open_run(config, run, display) as config:
        training = opened(config, run)
        fresh = Training.open(config, run, Display(), Communicator())
    predictor = Predictor.load(earlier)
    before, now = rows_by_value(predictor.catalogue), rows_by_value(Store(new))
    assert set(before) < set(now)
    taken = training.worker.table
    for key, row in now.items():
        where = torch.tensor([row])
        values = taken.lookup(where)
        assert torch.equal(values, taken.lookup_averaged(where))
        if key in before:
            expected = predictor.scorer.worker.table.lookup_averaged(torch.tensor([before[key]]))
            assert torch.equal(values, expected)
        else:
            assert torch.equal(values, fresh.worker.table.lookup(where))
    layers = predictor.scorer.worker.coordinator.averaged_layers
    assert_same(dict(training.worker.layers), dict(layers))
    phi = {k: v for k, v in training.worker.dense_state().items() if k.startswith("phi.")}
    saved = checkpoint.load(earlier / "checkpoints", predictor.step)
    anew = training.worker.coordinator.scheduler_optimizer.state("phi")
    assert anew
    assert not any(tensor.any() for tensor in anew.values())
    phi = {k: v for k, v in phi.items() if k not in anew}
    assert phi
    assert_same(phi, {k: saved.dense[k] for k in phi})
    (line,) = [line for line in display.lines if line.startswith("from ")]
    assert line.startswith(
        f"from {earlier} at step {predictor.step}: {len(before)} of {len(now)} embedding rows, "
        "all layers, the scheduler; "
    )
    assert (run / "config.yaml").read_text().startswith(f"# {line}\n")
    assert saved_config(run).train.from_run == str(earlier)


@pytest.mark.parametrize("size", [2, 4])
def test_any_number_of_workers_takes_the_same_bits(tmp_path, new, earlier, size, monkeypatch):
    monkeypatch.setattr("greatmeta_dist.training.earlier_run.ROWS_PER_PART", 7)
    config, run = going_on(new, earlier, lanes=4), tmp_path / "run"

    def table(communicator):
        training = opened(config, run, communicator)
        return training.worker.table.state(), dict(training.worker.layers)

    with open_run(config, run, Display()) as config:
        (alone, layers), *_ = run_workers(1, table)
        parts = run_workers(size, table)
    for name in ("rows", "mean"):
        assert torch.equal(torch.cat([state[name] for state, _ in parts]), alone[name])
    for _, of_worker in parts:
        assert_same(of_worker, layers)


def test_a_run_that_went_on_is_scored_before_its_first_step(tmp_path, new, earlier):
    metrics = train(going_on(new, earlier, keep_checkpoints=9), tmp_path / "run", Display())
    assert metrics["step"] == 12
    assert checkpoint.steps(tmp_path / "run" / "checkpoints")[0] == 0
    fresh = train(small(new, keep_checkpoints=9), tmp_path / "fresh", Display())
    assert checkpoint.steps(tmp_path / "fresh" / "checkpoints")[0] > 0
    assert fresh["step"] == 12


def test_a_run_that_went_on_is_resumed_without_the_earlier_one(tmp_path, new, earlier):
    copy, run = shutil.copytree(earlier, tmp_path / "earlier"), tmp_path / "run"
    whole = going_on(new, copy)
    train(whole, tmp_path / "whole", Display())
    train(replace(whole, train=replace(whole.train, steps=6)), run, Display())
    shutil.rmtree(copy)
    first_lines = (run / "config.yaml").read_text().splitlines()[:1]
    train(whole, run, Display())
    assert_same(final_state(run), final_state(tmp_path / "whole"))
    assert (run / "config.yaml").read_text().splitlines()[:1] == first_lines
    with pytest.raises(InputError, match=r"train.from was .*/earlier, is None"):
        train(small(new), run, Display())


def test_a_kill_before_the_first_checkpoint_takes_the_parameters_again(tmp_path, new, earlier):
    config, run = going_on(new, earlier), tmp_path / "run"
    with open_run(config, run, Display()):
        pass
    train(config, run, Display())
    train(config, tmp_path / "whole", Display())
    assert_same(final_state(run), final_state(tmp_path / "whole"))


def refused(config: Config, run: Path) -> str:
    """Why a training is refused; nothing is written."""
    with pytest.raises(InputError) as error:
        train(config, run, Display())
    assert not run.exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_be_gone_on_from_is_refused_in_one_line(tmp_path, new, earlier):
    run = tmp_path / "run"
    missing = refused(going_on(new, tmp_path / "nowhere"), run)
    assert "nowhere holds no run (no config.yaml); name a trained run" in missing
    assert "holds no run" in refused(going_on(new, new), run)
    copy = shutil.copytree(earlier, tmp_path / "copy")
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("steps: 12", "steps: 99"))
    line = refused(going_on(new, copy), run)
    assert f"copy is at step 12 of 99; finish it: greatmeta train run={copy}" in line
    shutil.rmtree(copy / "checkpoints")
    assert "copy has no checkpoint; train it" in refused(going_on(new, copy), run)
    shutil.rmtree(copy / "model")
    (copy / "checkpoints").mkdir()
    itself = going_on(new, earlier)
    with pytest.raises(InputError, match="is the run itself; name another run=DIR"):
        train(itself, shutil.copytree(earlier, tmp_path / "x") and earlier, Display())


def test_another_model_other_features_and_another_label_are_refused(tmp_path, log, new, earlier):
    run, config = tmp_path / "run", going_on(new, earlier)
    wider = replace(config, model=ModelConfig(embedding_dim=8, hidden=[8]))
    line = refused(wider, run)
    assert "has another model: model.embedding_dim is 4 there, 8 here; take the same" in line
    without = prepared(tmp_path / "a", log, items_path=None, item_features={})
    line = refused(going_on(without, earlier), run)
    assert "has the features item's item_id, item's kind (list), and" in line
    clicks = prepared(tmp_path / "b", log, label="click")
    assert "predicts ratings, and" in refused(going_on(clicks, earlier), run)
    no_factors = ModelConfig(embedding_dim=4, hidden=[8], item_init="random")
    assert train(replace(config, model=no_factors), run, Display())["step"] == 12


def test_another_scheduler_starts_anew(tmp_path, new, earlier):
    config = replace(going_on(new, earlier), scheduler=SchedulerConfig(kind="mlp"))
    display = Lines()
    train(config, tmp_path / "run", display)
    (line,) = [line for line in display.lines if line.startswith("from ")]
    assert "all layers; " in line
    assert "scheduler" not in line


def test_a_damaged_best_checkpoint_is_said(tmp_path, new, earlier):
    copy = shutil.copytree(earlier, tmp_path / "copy")
    for path in copy.glob("checkpoints/*/dense.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"the checkpoint of step \d+ in train.from=.* is damaged"):
        train(going_on(new, copy), tmp_path / "run", Display())


def test_the_command_line_goes_on_from_a_run(tmp_path, new, earlier, capsys):
    words = [
        "model.embedding_dim=4",
        "model.hidden=[8]",
        "train.steps=4",
        "train.users_per_batch=8",
    ]
    run = f"run={tmp_path}/run"
    assert main(["train", f"store={new}", run, f"train.from={earlier}", *words]) == 0
    assert "embedding rows, all layers" in capsys.readouterr().out
    assert main(["train", run, "train.steps=6"]) == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["step"] == 6
