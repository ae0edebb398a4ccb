"""A run's folder is trained in only as its config, its store and its version allow."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from logs import csv_config, write_log
from small_training import small

from greatmeta_dist.cli import main
from greatmeta_dist.config import ClusterConfig, ModelConfig, PriorsConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError
from greatmeta_dist.predict import Predictor
from greatmeta_dist.training.loop import train
from greatmeta_dist.training.run_config import saved_config

OLD_CONFIG = """
model: {embedding_dim: 64, hidden: [64, 64], is_list_mean: true, label: bias, is_spectral: true}
inner: {steps: 3, rate: 0.02, prior_rows: 80.0}
scheduler: {kind: balanced, evenness: 1.0, rate: 0.005}
train: {steps: 100, users_per_step: 32, rate: 0.002, is_resplit: true, averaging: 0.99}
cluster: {kind: local, workers: null, threads: null}
"""
"""Some of what a run of an earlier version had."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, store) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    train(small(store), run, Display())
    return run


@pytest.fixture
def run(tmp_path, trained) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def test_run_with_another_config_is_refused_with_the_difference(run, store):
    other = replace(small(store), model=ModelConfig(embedding_dim=8, hidden=[8]))
    with pytest.raises(InputError, match=r"model.embedding_dim was 4, is 8"):
        train(other, run, Display())
    other = replace(small(store), cluster=ClusterConfig(precision="bf16"))
    with pytest.raises(InputError, match=r"cluster.precision was float32, is bf16"):
        train(other, run, Display())
    other = replace(small(store), priors=PriorsConfig(seed=1))
    with pytest.raises(InputError, match=r"priors.seed was 0, is 1"):
        train(other, run, Display())
    with pytest.raises(InputError, match="is no run"):
        train(small(store), store, Display())


def test_fewer_steps_than_are_done_are_refused_and_not_written(run, store, capsys):
    before = (run / "config.yaml").read_text()
    line = refused(capsys, "train", f"run={run}", "train.steps=5")
    assert f"train.steps is 5, and {run} is at step 12 already; take 12 or more" in line
    assert (run / "config.yaml").read_text() == before
    assert train(small(store), run, Display())["step"] == 12


def test_a_folder_of_checkpoints_that_cannot_be_written_is_said_at_once(tmp_path, store):
    run = tmp_path / "run"
    run.mkdir()
    train(small(store, steps=2), run, Display())
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").touch()
    with pytest.raises(InputError, match=r"cannot write into .*checkpoints \(Not a directory\)"):
        train(small(store, steps=4), run, Display())


def test_a_refused_store_leaves_the_run_as_it_was(tmp_path, run, store):
    before = sorted(run.rglob("*"))
    prepare(csv_config(write_log(tmp_path, num_users=120)), tmp_path / "other")
    with pytest.raises(InputError, match="was trained on another store than"):
        train(small(tmp_path / "other"), run, Display())
    assert sorted(run.rglob("*")) == before
    assert Predictor.load(run).step > 0


def test_a_start_that_was_killed_before_its_config_can_be_repeated(tmp_path, store):
    (tmp_path / "run" / ".partial-model").mkdir(parents=True)
    (tmp_path / "run" / "model").mkdir()
    for name in (".lock", "config.yaml.partial", ".partial-model/model.json", "model/model.json"):
        (tmp_path / "run" / name).touch()
    assert train(small(store, steps=2), tmp_path / "run", Display())["step"] == 2
    assert not list((tmp_path / "run").glob(".partial*"))


def refused(capsys, *words: str) -> str:
    """The one line with which a command is refused."""
    capsys.readouterr()
    assert main(list(words)) == 2
    err = capsys.readouterr().err
    assert err.startswith("greatmeta: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_what_another_version_trained_is_refused_in_one_line(capsys, run, command):
    path = run / "model" / "model.json"
    saved = json.loads(path.read_text())
    for text in (json.dumps({**saved, "version": 0}), "{", "[]"):
        path.write_text(text)
        err = refused(capsys, command, f"run={run}")
        assert "and this program reads 1" in err
        assert "train anew with another run=DIR" in err
    shutil.rmtree(run / "model")
    assert "has no model/model.json: it was trained by an older version" in refused(
        capsys, command, f"run={run}"
    )
    (run / "config.yaml").write_text(OLD_CONFIG)
    err = refused(capsys, command, f"run={run}")
    assert "config.yaml is not a config of this version: Key 'is_list_mean' not in" in err
    assert "train anew with another run=DIR, or use the version that wrote it" in err
    assert saved_config(run / "nowhere") is None


def test_a_damaged_model_folder_is_said_in_one_line(capsys, run):
    path = run / "model" / "priors" / "bias.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    for command in ("train", "evaluate"):
        assert "priors are damaged" in refused(capsys, command, f"run={run}").replace(
            f"the priors in {run / 'model' / 'priors'} are", "priors are"
        )


@pytest.mark.parametrize("text", ["", "null\n", "train: {steps: 12}\n", "[1, 2]\n"])
def test_a_config_that_lacks_options_is_refused_and_never_filled_with_defaults(run, text):
    (run / "config.yaml").write_text(text)
    with pytest.raises(InputError, match="is not a config of this version"):
        saved_config(run)


def test_a_config_that_is_no_text_is_refused_in_one_line(run):
    (run / "config.yaml").write_bytes(b"store: \xff\xfe")
    with pytest.raises(InputError, match="is not a config of this version"):
        saved_config(run)


def test_training_does_not_go_on_with_a_damaged_catalogue(run, store):
    items = run / "model" / "catalogue" / "items.arrow"
    items.write_bytes(items.read_bytes()[:100])
    with pytest.raises(InputError, match="catalogue is damaged"):
        train(small(store, steps=14), run, Display())
