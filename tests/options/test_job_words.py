"""Words of ``submit`` and ``jobs`` are checked before anything is asked of a cluster."""

import pytest

from greatmeta_dist.errors import InputError
from greatmeta_dist.options.job_words import WRITES, jobs_words, submitted_words
from greatmeta_dist.options.names import COMMANDS, options_of

TRAIN = ["train", "store=/s", "run=/r"]


def test_what_may_be_submitted_writes_an_option_of_its_own():
    for command, option in WRITES.items():
        assert option in options_of(command)
        assert COMMANDS[command].folders


def test_workers_are_on_the_cluster_unless_the_words_say_otherwise():
    own_cluster = "cluster.address=null"
    assert submitted_words(["--", *TRAIN])[2] == [*TRAIN[1:], own_cluster, "cluster.kind=ray"]
    for said in ("cluster=local", "cluster.kind=local"):
        assert submitted_words(["--", *TRAIN, said])[2] == [*TRAIN[1:], said, own_cluster]
    assert submitted_words(["--", "evaluate", "run=/r"])[2] == ["run=/r"]


def test_detach_is_an_option():
    own, command, _ = submitted_words(["--detach", "cluster.address=http://a", "--", *TRAIN])
    assert own == ["submit.detach=true", "cluster.address=http://a"]
    assert command == "train"


@pytest.mark.parametrize(
    "words, reason",
    [
        ([], "submit takes a command after --"),
        (["--"], "no command stands after --"),
        (["--", "serve", "run=/r"], "'serve' cannot be submitted"),
        (["--", "trian", *TRAIN[1:]], "did you mean train"),
        (["--", *TRAIN, "-m"], "a sweep cannot be submitted"),
        (["--", *TRAIN, "cluster.address=http://a"], "cluster.address belongs before --"),
        (["--", *TRAIN, "train.stepz=3"], "did you mean train.steps"),
        (["cluster.workers=2", "--", *TRAIN], "cluster.workers is no option of submit"),
        (["--", "train", "store=s", "run=/r"], "store=s is a relative path"),
        (["--", "train", "store=/s"], "run=DIR is not set"),
        (["--", "recommend", "run=/r", "out=/o", "users=u.csv"], "users=u.csv is a relative path"),
    ],
)
def test_a_command_that_cannot_be_submitted_is_refused(words, reason):
    with pytest.raises(InputError, match=reason):
        submitted_words(words)


def test_a_run_may_be_resumed_without_its_store_for_it_is_elsewhere():
    assert submitted_words(["--", "train", "run=/nowhere/run"])[1] == "train"
    assert submitted_words(["--", "train", "run=s3://bucket/run", "store=s3://b/s"])[1] == "train"


def test_jobs_lists_follows_and_stops():
    assert jobs_words([]) == ("list", None, [])
    assert jobs_words(["cluster.address=http://a"])[2] == ["cluster.address=http://a"]
    assert jobs_words(["follow", "train-a-1"])[:2] == ("follow", "train-a-1")
    assert jobs_words(["stop", "train-a-1"])[:2] == ("stop", "train-a-1")


@pytest.mark.parametrize(
    "words, reason",
    [
        (["kill", "a"], "jobs cannot kill"),
        (["stop"], "jobs stop takes the id of one job"),
        (["list", "a"], "jobs list takes no job"),
        (["follow", "a", "b"], "takes the id of one job"),
        (["train.steps=3"], "train.steps is no option of jobs"),
    ],
)
def test_other_words_of_jobs_are_refused(words, reason):
    with pytest.raises(InputError, match=reason):
        jobs_words(words)
