"""Words become a config, presets included."""

from dataclasses import replace

import pytest

from greatmeta_dist.config import Config, DataConfig
from greatmeta_dist.errors import InputError
from greatmeta_dist.options.checks import check_words
from greatmeta_dist.options.compose import compose_config, with_changes
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


@pytest.mark.parametrize("path", ["a/${b}", r"a/\${b}", r"\\${oc.env:HOME}", "x\\y", "$a", "${"])
def test_paths_are_never_references(path):
    composed = compose_config(["data=csv", f"data.path={path}", f"store={path}"])
    assert (composed.data.path, composed.store) == (path, path)


def test_names_of_columns_are_taken_as_they_stand():
    columns = '{user: "a ${b}", item: x.y}'
    features = '{"a.b[0]": token, "${c}": float}'
    words = [f"data.columns={columns}", f"data.item_features={features}"]
    words += ["data.user_features.a.b=token"]
    composed = compose_config(["data=csv", "data.path=x", *words])
    assert (composed.data.columns.user, composed.data.columns.item) == ("a ${b}", "x.y")
    assert composed.data.item_features == {"a.b[0]": "token", "${c}": "float"}
    assert composed.data.user_features == {"a.b": "token"}


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    composed = compose_config(["data=csv", "data.path=~/log.csv", "store=~/s"])
    assert (composed.data.path, composed.store) == ("/home/me/log.csv", "/home/me/s")
    assert DataConfig(source="csv", items_path="~/x").items_path == "/home/me/x"


def test_what_is_no_utf8_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"data.path=a\\udcff is not valid UTF-8"):
        check_words("prepare", ["data.path=a\udcff"])
    with pytest.raises(InputError, match=r"data.path is a\\udcff, whose name is not valid UTF-8"):
        DataConfig(source="csv", path="a\udcff")


def test_an_option_named_like_a_word_of_python_is_typed_by_its_name():
    words = ["data.from=stores/a=b", "train.from=runs/a"]
    config = compose_config(words)
    assert config.data.from_store == "stores/a=b"
    assert config.train.from_run == "runs/a"
    assert with_changes(Config(), config, words[1:]).train.from_run == "runs/a"


@pytest.mark.parametrize("key", ["store", "run", "out", "against"])
@pytest.mark.parametrize("path", ["s3:/bucket/a", "s3:bucket/a"])
def test_a_url_without_its_slashes_is_no_folder_of_that_name(key, path):
    with pytest.raises(InputError, match=rf"^{key}={path} is neither .*; write s3://bucket/a$"):
        compose_config([f"{key}={path}"])
