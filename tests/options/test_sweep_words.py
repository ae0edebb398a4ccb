"""A sweep's words become jobs, and ranges, as Hydra's users write them."""

import pytest

from greatmeta_dist.errors import InputError
from greatmeta_dist.options.compose import compose_config, compose_job
from greatmeta_dist.options.sweep_words import MAX_NAME, Range, SweepWords, job_name


def test_a_sweep_takes_every_combination_and_paths_as_they_are():
    words = ["train.seed=0,1", "model=paper,default", "store=a,b", "model.hidden=[64,64],[32]"]
    parsed = SweepWords.parse(words, is_search=False)
    jobs = [parsed.words(values) for values in parsed.combinations()]
    assert len(jobs) == 8
    assert jobs[1] == ["store=a,b", "train.seed=0", "model=paper", "model.hidden=[32]"]
    for job in (jobs[0], jobs[-1]):
        assert compose_job(job) == compose_config(job)


@pytest.mark.parametrize(
    "word, values",
    [
        ("train.seed=1,2,1", ["1", "2"]),
        ("train.seed=choice(3)", ["3"]),
        ("train.seed=range(1,6,2)", ["1", "3", "5"]),
        ("train.learning_rate=1e-3,0.001,2e-2", ["0.001", "0.02"]),
    ],
)
def test_values_are_listed_in_several_ways(word, values):
    assert list(SweepWords.parse([word], is_search=False).values.values()) == [values]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("train.ema_decay=interval(0,0.9)", Range(0, 0.9, None, False, False)),
        ("train.ema_decay=range(0,1,0.25)", Range(0, 0.75, 0.25, False, False)),
        ("train.learning_rate=tag(log,interval(1e-4,0.1))", Range(1e-4, 0.1, None, True, False)),
        ("train.users_per_batch=interval(4,16)", Range(4, 16, None, False, True)),
        ("train.users_per_batch=range(4,17,4)", Range(4, 16, 4, False, True)),
    ],
)
def test_ranges_have_the_kind_of_their_option(text, expected):
    key = text.partition("=")[0]
    assert SweepWords.parse([text], is_search=True).ranges == {key: expected}


@pytest.mark.parametrize(
    "word, expected",
    [
        ("model.hidden=[64", r"in model\.hidden=\[64; check its brackets"),
        ("train.learning_rate=interval(2,1)", "the first end must be lower"),
        ("train.learning_rate=tag(log,interval(0,1))", "it must begin above 0"),
        ("train.steps=interval(0.5,2)", "takes whole numbers"),
        ("scheduler.kind=interval(0,2)", "it takes no numbers"),
        ("train.seed=range(3,1)", "no value|empty range"),
    ],
)
def test_what_is_no_list_and_no_range_is_said_in_one_line(word, expected):
    with pytest.raises(InputError, match=expected) as error:
        SweepWords.parse([word], is_search=True)
    assert "\n" not in str(error.value)


def test_names_are_of_the_options_in_order_and_safe():
    assert job_name({"train.seed": "1", "model.hidden": "[64,64]"}) == (
        "model.hidden=[64,64],train.seed=1"
    )
    names = {job_name({"train.from": text}) for text in ("a/b", "a b", "a_b", "x" * 400)}
    assert len(names) == 4
    assert not any(set("/ ") & set(name) or len(name) > MAX_NAME for name in names)
