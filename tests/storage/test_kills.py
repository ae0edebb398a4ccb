"""Kills change no bit of a run on an object store, as on disk."""

import pytest

from benchmarks.chaos import disturb
from greatmeta_dist.storage.objects import ObjectFolder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_processes_change_nothing(s3, tmp_path, empty_cache):
    kinds = ["coordinator", "driver"]
    results = disturb(tmp_path, kinds, seed=1, tell=print, at=f"{s3}/chaos")
    assert [r.kind for r in results if r.is_same] == kinds
    names = ObjectFolder(f"{s3}/chaos/kill-1").files()
    assert not [name for name in names if name.startswith(".")]
