"""Values that are wrong by themselves are found without Hydra; all others are left to it."""

import pytest

from greatmeta_dist.errors import InputError
from greatmeta_dist.options.checks import check_folders, check_words, verbatim


@pytest.mark.parametrize(
    "word, expected",
    [
        ("train.steps=1.5", "train.steps is '1.5', which could not be converted to Integer"),
        ("train.lanes=None", "expected a whole number or null"),
        ("inner.learning_rate=fast", "could not be converted to Float; expected a number"),
        ("model.has_kernel=maybe", "model.has_kernel is 'maybe'; expected true or false"),
        ("cluster.precision=fp8", "expected one of float32, tf32, bf16"),
        ("model.hidden=64", "model.hidden is 64; a list is written [64,64]"),
        ("model=papr", "no preset model=papr; did you mean paper?"),
    ],
)
def test_wrong_values_are_named_with_what_was_expected(word, expected):
    with pytest.raises(InputError) as error:
        check_words("train", [word])
    assert expected in str(error.value)


@pytest.mark.parametrize(
    "word",
    [
        "train.steps=100",
        "train.steps=1_000",
        "train.lanes=null",
        "inner.learning_rate=2e-2",
        "inner.learning_rate=.5",
        "model.has_kernel=False",
        "model.hidden=[64,32]",
        "model.embedding_dim=${train.steps}",
        "model.activation='tanh'",
        "scheduler.factors=[gap]",
        "cluster.workers=[1,4]",
        "cluster=ray",
        "run=a=b,[c]",
        "experiment=paper",
    ],
)
def test_right_values_pass(word):
    check_words("train", [word])


def test_a_sweep_is_checked_value_by_value():
    check_words("train", ["train.seed=0,1", "model=paper,default"], is_sweep=True)
    with pytest.raises(InputError, match=r"train\.seed is 'one'"):
        check_words("train", ["train.seed=0,one"], is_sweep=True)


def test_an_entry_of_a_mapping_is_an_option():
    check_words("prepare", ["data.columns.user=uid", "data.item_features.genres=token_list"])


def test_training_needs_a_store_unless_the_run_is_there(tmp_path):
    check_folders("train", [f"run={tmp_path}", "store=somewhere"])
    with pytest.raises(InputError, match="store=DIR is not set"):
        check_folders("train", [f"run={tmp_path}"])
    (tmp_path / "config.yaml").touch()
    check_folders("train", [f"run={tmp_path}"])
    check_folders("train", [f"run='{tmp_path}'"])


@pytest.mark.parametrize(
    "value, meant", [("'a b'", "a b"), ("null", None), ("file:///a", "/a"), ("a=b,[c]", "a=b,[c]")]
)
def test_paths_are_taken_as_they_stand(value, meant):
    assert verbatim("run", value) == meant


@pytest.mark.parametrize("value, meant", [("\\t", "\t"), ("\\|", "|"), (",", ",")])
def test_separators_may_be_escaped(value, meant):
    assert verbatim("data.separator", value) == meant
