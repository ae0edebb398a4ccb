"""Where a worker computes, and how its process is set up."""

import gc

import torch

from greatmeta_dist.training.device import local_device, rare_garbage_collection


def test_workers_that_communicate_through_the_host_compute_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    assert local_device().type == "cpu"


def test_garbage_is_collected_as_before_after_the_block():
    before = gc.get_threshold()
    with rare_garbage_collection():
        assert gc.get_threshold()[0] > before[0]
    assert gc.get_threshold() == before
