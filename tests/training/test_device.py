"""Where a worker computes, and how its process is set up."""

import ctypes
import gc
import subprocess
import sys

import pytest
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


FAULTS = """
import resource, sys
import torch
from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.training.device import configure_torch, make_heap_room

configure_torch(ClusterConfig())
if sys.argv[1] == "room":
    make_heap_room()
for _ in range(4):
    torch.zeros(12 << 20)  # 48 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.zeros(12 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_large_blocks_are_not_mapped_anew_once_the_heap_has_room():
    def faults(word: str) -> int:
        command = [sys.executable, "-c", FAULTS, word]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("room") < 100
    assert faults("none") > 1000
