"""Hints name what a typed word most likely meant."""

import pytest

from greatmeta_dist.errors import InputError
from greatmeta_dist.options.checks import check_words
from greatmeta_dist.options.hints import NEW_VALUES, PRESET_SYNONYMS, RENAMED, SYNONYMS
from greatmeta_dist.options.names import COMMANDS, SECTIONS, all_options, options_of, presets


def message(command: str, *words: str) -> str:
    with pytest.raises(InputError) as error:
        check_words(command, list(words))
    return str(error.value)


@pytest.mark.parametrize("old, new", RENAMED.items())
def test_an_old_name_leads_to_the_new_one(old, new):
    assert new in all_options()
    assert old not in all_options()
    command = next(c for c in COMMANDS if new in options_of(c))
    value = next(iter(NEW_VALUES.get(old, {"1": "1"})))
    found = message(command, f"{old}={value}")
    assert found.startswith(f"{old} is now {new}; write {new}=")
    if old in NEW_VALUES:
        assert found.endswith(NEW_VALUES[old][value])


def test_an_old_name_says_whose_option_it_is_now():
    assert message("prepare", "model.label=rating") == (
        "model.label is now model.target, an option of train"
    )


def test_every_hint_names_something_that_exists():
    assert {name for meant in SYNONYMS.values() for name in meant} <= set(all_options())
    assert set(PRESET_SYNONYMS.values()) <= set(presets()["data"])


@pytest.mark.parametrize(
    "word, meant",
    [
        ("train steps=100", "train.steps=100"),
        ("train stpes=100", "train.steps=100"),
        ("train inner.step=2", "inner.steps=2"),
        ("train epochs=5", "train.steps=5"),
        ("train train.epochs=5", "train.steps=5"),
        ("train batch_size=8", "train.users_per_batch=8"),
        ("train users_per_step=8", "train.users_per_batch=8"),
        ("train workers=2", "cluster.workers=2"),
        ("train num-workers=2", "cluster.workers=2"),
        ("train inner.lr=0.1", "inner.learning_rate=0.1"),
        ("train schedulr.kind=mlp", "scheduler.kind=mlp"),
        ("train seed=1", "train.seed=1"),
        ("prepare seed=1", "data.seed=1"),
        ("train embedding_dim=8", "model.embedding_dim=8"),
        ("train expriment=paper", "experiment=paper"),
        ("train train=ml-100k", "experiment=ml-100k"),
        ("train scheduler.kind=paper", "scheduler=paper"),
        ("prepare data=ml-1m", "movielens_1m"),
        ("prepare data=ML1M", "movielens_1m"),
        ("prepare data=ml-100k", "movielens_100k"),
        ("prepare data=ml-25m", "movielens_csv"),
        ("prepare data=Book-Crossing", "bookcrossing"),
        ("train --steps=5", "train.steps=5"),
        ("prepare synthetic", "data=synthetic"),
    ],
)
def test_a_word_leads_to_what_it_meant(word, meant):
    command, option = word.split(" ", 1)
    assert f"did you mean {meant}?" in message(command, option)


@pytest.mark.parametrize("word", ["lr", "learning_rate", "rate", "optimizer.lr"])
def test_a_word_of_several_meanings_leads_to_all(word):
    assert message("train", f"{word}=0.1").endswith(
        "did you mean train.learning_rate=0.1, inner.learning_rate=0.1 or "
        "scheduler.learning_rate=0.1?"
    )


def test_an_option_of_another_command_is_said_to_be_one():
    found = message("train", "data.users=5")
    assert found == "data.users is no option of train; it is an option of inspect and prepare"
    assert "did you mean train.steps=5? That is for train, not for prepare" in message(
        "prepare", "steps=5"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_word_like_nothing_lists_what_the_command_reads_and_no_more(command):
    found = message(command, "qqqq=1")
    reads = (*COMMANDS[command].folders, *COMMANDS[command].sections)
    assert all(name in found for name in reads)
    assert not any(f"{name}.…" in found for name in set(SECTIONS) - set(reads))
