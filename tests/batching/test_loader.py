"""Steps come in order, built ahead or not, and errors where they belong."""

import pytest
import torch

from greatmeta_dist.batching import loader as loader_module
from greatmeta_dist.batching.loader import Loader, is_core_free, with_following


@pytest.mark.parametrize("is_ahead", [False, True])
def test_the_loader_gives_the_steps_in_order(make_lanes, is_ahead):
    lanes, read_ahead = (make_lanes(lanes=2, users_per_batch=8) for _ in range(2))
    with Loader(read_ahead, range(3, 9), is_ahead=is_ahead) as loader:
        assert [step.user for step in loader] == [lanes.step(k).user for k in range(3, 9)]


@pytest.mark.parametrize("is_ahead", [False, True])
def test_the_loader_can_be_left_early_and_passes_errors_on(make_lanes, monkeypatch, is_ahead):
    lanes = make_lanes(lanes=1, users_per_batch=8)
    with Loader(lanes, range(10**6), is_ahead=True) as loader:
        next(iter(loader))

    def gone(number):
        raise OSError(f"step {number} is gone")

    monkeypatch.setattr(lanes, "step", gone)
    with (
        Loader(lanes, range(3), is_ahead=is_ahead) as loader,
        pytest.raises(OSError, match="step 0 is gone"),
    ):
        next(iter(loader))


def test_each_step_comes_with_the_one_after_it():
    assert list(with_following([1, 2, 3])) == [(1, 2), (2, 3), (3, None)]
    assert list(with_following([])) == []


@pytest.mark.parametrize("num_cores, is_free", [(1, False), (2, False), (3, True)])
def test_a_core_is_free_where_the_workers_threads_leave_one(monkeypatch, num_cores, is_free):
    monkeypatch.setattr(loader_module, "available_processors", lambda: num_cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert is_core_free(torch.device("cpu")) == is_free
    assert is_core_free(torch.device("cuda"))
