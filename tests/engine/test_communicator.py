"""A lone worker keeps its messages, and traffic is counted by phase."""

import pytest
import torch

from greatmeta_dist.engine.communicator import Communicator, DistributedCommunicator, Traffic, join


def test_a_lone_worker_gets_back_what_it_sends():
    communicator = Communicator()
    value = torch.arange(3)
    assert communicator.is_first
    assert communicator.gather(value, "test") is value
    assert communicator.scatter(value, value, "test") is value
    assert communicator.all_reduce(value, "test") is value
    assert communicator.all_to_all([[value]], [[(3,)]], "test") == [[value]]
    assert communicator.gather_objects("a") == ["a"]
    assert communicator.broadcast_object("a") == "a"
    assert communicator.all_true(True)
    assert not communicator.all_true(False)
    assert communicator.traffic == Traffic()


def test_without_word_of_others_a_worker_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    communicator = join(torch.device("cpu"), is_fast=False)
    assert not isinstance(communicator, DistributedCommunicator)
    assert communicator.size == 1


def test_traffic_is_added_up_by_phase_and_taken_once():
    traffic = Traffic()
    traffic.add("sum", 8, 0.5)
    traffic.add("sum", 4, 0.25)
    traffic.add("weights", 2, 1.0)
    taken = traffic.take()
    assert taken == Traffic({"sum": 12, "weights": 2}, {"sum": 0.75, "weights": 1.0})
    assert traffic.take() == Traffic()
    total = Traffic.of_all([taken, Traffic({"sum": 4}, {"sum": 0.25})])
    assert total.sent == {"sum": 16, "weights": 2}
    assert total.seconds == pytest.approx({"sum": 0.5, "weights": 0.5})
