"""A training that ended says how, and a group that gets no further is not started again."""

import pytest

from greatmeta_dist.engine.communicator import PeerLost
from greatmeta_dist.errors import InputError
from greatmeta_dist.launch.restart import MAX_FRUITLESS_STARTS, Outcome, RestartPolicy, attempt
from greatmeta_dist.training.regroup import Regrouping


def raising(error: BaseException):
    def train_here():
        raise error

    return train_here


def test_an_outcome_stands_for_what_the_training_did():
    assert attempt(lambda: {"step": 3}).unwrap() == {"step": 3}
    for error in (KeyboardInterrupt(), InputError("no such store"), RuntimeError("disk is full")):
        with pytest.raises(type(error), match=str(error) or None):
            attempt(raising(error)).unwrap()


def test_an_unforeseen_error_is_shown_whole_and_fails(capsys):
    outcome = attempt(raising(ZeroDivisionError("by zero")))
    assert (outcome.kind, outcome.message) == ("failed", "by zero")
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [PeerLost("gone"), Regrouping("its node goes")])
def test_what_another_group_follows_is_no_outcome(error):
    with pytest.raises(type(error)):
        attempt(raising(error))


def test_a_group_that_made_way_is_excused(tmp_path):
    policy = RestartPolicy(tmp_path)
    for _ in range(MAX_FRUITLESS_STARTS):
        assert policy.check() is None
        assert policy.check(is_excused=True) is None
    assert policy.check(is_excused=True) is None
    assert policy.check() is not None


def test_a_group_that_gets_no_further_is_started_so_many_times(tmp_path):
    policy = RestartPolicy(tmp_path)
    assert [policy.check() for _ in range(MAX_FRUITLESS_STARTS)] == [None] * MAX_FRUITLESS_STARTS
    outcome = policy.check()
    assert isinstance(outcome, Outcome)
    assert "died 5 times without getting further than step 0" in outcome.message


def test_a_new_checkpoint_starts_the_count_again(tmp_path):
    policy = RestartPolicy(tmp_path)
    for step in range(1, 4):
        for _ in range(MAX_FRUITLESS_STARTS):
            assert policy.check() is None
        (tmp_path / "checkpoints" / f"step-{step:09d}").mkdir(parents=True)
