"""At most one process holds a folder of an object store, and a dead one does not keep it."""

import json
import os
import subprocess
import threading
import time

import pytest

from greatmeta_dist.errors import InputError
from greatmeta_dist.storage import claim
from greatmeta_dist.storage.claim import CLAIMS, claimed
from greatmeta_dist.storage.objects import ObjectFolder


@pytest.fixture
def folder(s3, request) -> ObjectFolder:
    return ObjectFolder(f"{s3}/claims/{request.node.name}")


def take(folder: ObjectFolder, **options) -> None:
    """Hold a folder for a moment."""
    with claimed(folder, "taken", **options):
        pass


def claim_of(folder: ObjectFolder, name: str, *, machine: str, pid: int) -> None:
    content = json.dumps({"machine": machine, "pid": pid}).encode()
    folder.write(f"{CLAIMS}/{name}.json", content)


def test_a_second_one_is_refused_and_nothing_is_left(folder):
    with claimed(folder, "taken"), pytest.raises(InputError, match=r"^taken; wait for it"):
        take(folder)
    assert not folder.files()


def test_of_many_at_a_time_never_two_have_it(folder):
    inside, most, done = [], [], []

    def want(number: int) -> None:
        try:
            with claimed(folder, "taken"):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.05)
                inside.remove(number)
                done.append(number)
        except InputError:
            pass

    threads = [threading.Thread(target=want, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done
    assert max(most) == 1
    assert not folder.files()


def test_a_dead_process_of_this_machine_keeps_nobody_out(folder):
    dead = subprocess.Popen(["true"])
    dead.wait()
    claim_of(folder, "dead", machine=claim._machine(), pid=dead.pid)
    with claimed(folder, "taken"):
        assert len(folder.files()) == 1


def test_another_machine_that_lives_keeps_it(folder, monkeypatch):
    monkeypatch.setattr(claim, "POLL_S", 0.2)
    is_over, waits = threading.Event(), []

    def live() -> None:
        while not is_over.wait(0.3):
            claim_of(folder, "other", machine="elsewhere", pid=1)

    claim_of(folder, "other", machine="elsewhere", pid=1)
    thread = threading.Thread(target=live)
    thread.start()
    with pytest.raises(InputError, match=r"^taken"):
        take(folder, on_wait=lambda: waits.append(1))
    is_over.set()
    thread.join()
    assert waits == [1]


def test_another_machine_that_is_silent_for_long_loses_it(folder, monkeypatch):
    monkeypatch.setattr(claim, "POLL_S", 0.2)
    monkeypatch.setattr(claim, "STALE_S", 2.0)
    claim_of(folder, "other", machine="elsewhere", pid=os.getpid())
    with claimed(folder, "taken"):
        assert len(folder.files()) == 1


def test_a_store_that_cannot_be_reached_is_one_line(monkeypatch, s3):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(InputError, match=r"^s3://bucket/a: .*ACCESS_KEY_ID.*; check the address"):
        take(ObjectFolder(f"{s3}/a"))
