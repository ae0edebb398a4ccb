"""Processors are counted as this process may use them."""

import os

import pytest

from greatmeta_dist import processors


@pytest.mark.parametrize(
    "files, expected",
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu.max": "what is this\n"}, None),
    ],
)
def test_the_quota_of_a_container_is_read(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert processors._cgroup_quota(tmp_path) == expected


@pytest.mark.parametrize("quota, expected", [("50000", 1), ("100000", 1), ("250000", 2)])
def test_a_quota_bounds_the_processors_and_leaves_at_least_one(
    tmp_path, monkeypatch, quota, expected
):
    monkeypatch.setattr(processors, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
    assert processors.available_processors() == expected


def test_the_affinity_bounds_the_processors(tmp_path, monkeypatch):
    monkeypatch.setattr(processors, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1}, raising=False)
    assert processors.available_processors() == 1
