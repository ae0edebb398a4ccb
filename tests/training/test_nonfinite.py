"""Users without finite numbers count nothing, are named, and too many of them stop the run."""

from dataclasses import replace

import pytest
import torch
from small_training import Lines, small
from threaded_workers import run_workers

from greatmeta_dist.batching.lanes import Lanes
from greatmeta_dist.config import Config, InnerConfig, ModelConfig, TrainConfig
from greatmeta_dist.display import Display
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.training.loop import train
from greatmeta_dist.training.nonfinite import MAX_NAMED_USERS, NonfiniteUsers


def test_divergence_stops_the_run_with_advice(tmp_path, store):
    unbounded = ModelConfig(embedding_dim=4, hidden=[8], activation="none")
    config = replace(small(store), model=unbounded, inner=InnerConfig(learning_rate=1e6))
    with pytest.raises(RuntimeError, match=r"not finite.*diverged.*lower inner.learning_rate"):
        train(config, tmp_path / "run", Display())
    assert not any("nan" in p.read_text() for p in tmp_path.rglob("metrics.json"))


def test_divergence_is_said_without_building_every_step_again(tmp_path, store, monkeypatch):
    built = []
    step = Lanes.step
    monkeypatch.setattr(
        Lanes, "step", lambda self, number: built.append(number) or step(self, number)
    )
    config = replace(small(store, log_every=12), inner=InnerConfig(learning_rate=1e30))
    with pytest.raises(RuntimeError, match=r"100.0% of the users is not finite, to step 12"):
        train(config, tmp_path / "run", Display())
    assert len(built) < 12 + 5


def collector(display: Display, communicator: Communicator, *, limit: float) -> NonfiniteUsers:
    config = Config(train=TrainConfig(max_nonfinite_fraction=limit))
    return NonfiniteUsers(config, communicator, display)


def test_a_user_is_named_once_however_often_it_is_met():
    display = Lines()
    users = collector(display, Communicator(), limit=0.5)
    for step in (1, 2):
        users.collect(torch.tensor([True, False, True]), ["a", "b", "c"])
        users.check(step)
    assert len(display.lines) == 1
    assert display.lines[0].endswith("users left out up to step 1, because their loss or gradient "
                                     "is not finite: b")  # fmt: skip


def test_every_worker_knows_its_own_users_and_the_first_one_names_all():
    displays = [Lines(), Lines()]

    def work(communicator):
        users = collector(displays[communicator.rank], communicator, limit=0.6)
        is_finite = torch.tensor([True, False, False, True])
        users.collect(
            is_finite if communicator.is_first else None,
            [["a", "b"], ["c", "d"]][communicator.rank],
        )
        users.check(1)

    run_workers(2, work)
    assert displays[0].lines[0].endswith(": b, c")
    assert not displays[1].lines


def test_too_many_stop_and_are_not_all_named():
    display = Lines()
    users = collector(display, Communicator(), limit=0.1)
    names = [f"u{k:02}" for k in range(20)]
    users.collect(torch.zeros(20, dtype=torch.bool), names)
    with pytest.raises(RuntimeError, match=r"100.0% of the users is not finite, to step 3"):
        users.check(3)
    assert display.lines[0].endswith(", ".join(names[:MAX_NAMED_USERS]))
