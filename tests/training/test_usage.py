"""What workers take of their machines, as TensorBoard shows it."""

import time

import pytest
import torch

from greatmeta_dist.training.usage import Usage, UsageMeter, usage_scalars


def test_a_busy_process_is_seen(monkeypatch):
    meter = UsageMeter(torch.device("cpu"))
    start = time.process_time()
    while time.process_time() < start + 0.05:
        pass
    usage = meter.look()
    assert usage.processors > 0
    assert usage.memory_mib > 50
    assert usage.gpu_memory_mib is None


def test_workers_are_added_and_the_largest_is_shown():
    scalars = usage_scalars([Usage(100.0, 0.5), Usage(300.0, 1.0)])
    assert scalars == {
        "system/workers": 2,
        "system/memory_mib/all": 400.0,
        "system/memory_mib/largest": 300.0,
        "system/processors": 1.5,
    }


@pytest.mark.parametrize("can_tell", [True, False])
def test_gpus_are_shown_where_there_are_any(monkeypatch, can_tell):
    def utilization(device: torch.device) -> int:
        if not can_tell:
            raise ModuleNotFoundError("nvidia-ml-py")
        return 40

    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3 << 20)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5 << 20)
    monkeypatch.setattr(torch.cuda, "utilization", utilization)
    usage = UsageMeter(torch.device("cuda")).look()
    scalars = usage_scalars([usage, usage])
    assert scalars["system/gpu_memory_mib"] == 3
    assert scalars["system/gpu_peak_memory_mib"] == 5
    assert scalars.get("system/gpu_busy_share") == (0.4 if can_tell else None)


@pytest.mark.gpu
def test_a_gpu_is_seen():
    usage = UsageMeter(torch.device("cuda", 0)).look()
    assert usage.gpu_peak_memory_mib is not None
