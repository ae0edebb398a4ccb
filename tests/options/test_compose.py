"""Words become a config, presets included."""

from dataclasses import replace

import pytest

from greatmeta_dist.config import Config
from greatmeta_dist.errors import InputError
from greatmeta_dist.options.compose import compose_config, sweep, with_changes
from greatmeta_dist.options.names import presets


def test_without_words_a_config_has_the_defaults_that_its_schema_shows():
    assert compose_config([]) == Config()


@pytest.mark.parametrize(
    "word", [f"{group}={name}" for group, names in presets().items() for name in names]
)
def test_every_preset_composes(word):
    assert isinstance(compose_config([word]), Config)


def test_a_run_keeps_its_config_but_for_what_is_named():
    saved = compose_config(["model=paper", "train.steps=7", "store=a"])
    words = ["train.steps=9", "run=b"]
    changed = with_changes(saved, compose_config(words), words)
    assert changed == replace(saved, run="b", train=replace(saved.train, steps=9))


def test_an_experiment_replaces_a_run_s_config_but_for_its_store():
    saved = compose_config(["model=paper", "store=a"])
    words = ["experiment=ml-100k"]
    config = compose_config(words)
    assert with_changes(saved, config, words) == replace(config, store="a")


def test_a_sweep_takes_every_combination_and_numbers_the_runs():
    jobs = sweep(["run=r", "train.seed=0,1", "model=paper,default", "store=a,b"])
    assert len(jobs) == 4
    assert jobs[1] == ["run=r/1", "train.seed=0", "model=default", "store=a,b"]


def test_a_sweep_over_words_that_hydra_cannot_read_is_said_in_one_line():
    with pytest.raises(InputError, match=r"in model\.hidden=\[64; check its brackets"):
        sweep(["run=r", "model.hidden=[64"])


@pytest.mark.parametrize(
    "word, expected",
    [
        ("model.hidden=[64", "in model.hidden=[64; check its brackets"),
        ("train.seed=0,1", "a sweep over values takes -m"),
        ("data.columns={user", "is no mapping; expected"),
    ],
)
def test_what_hydra_refuses_is_said_in_one_line(word, expected):
    with pytest.raises(InputError) as error:
        compose_config([word])
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_an_option_named_like_a_word_of_python_is_typed_by_its_name():
    words = ["data.from=stores/a=b", "train.from=runs/a"]
    config = compose_config(words)
    assert config.data.from_store == "stores/a=b"
    assert config.train.from_run == "runs/a"
    assert with_changes(Config(), config, words[1:]).train.from_run == "runs/a"
