"""SIGTERM to a lone worker of Ray asks the whole group for a checkpoint."""

import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from greatmeta_dist.launch import ray as ray_workers
from greatmeta_dist.launch import sigterm
from greatmeta_dist.launch.mailbox import Mailbox
from greatmeta_dist.launch.sigterm import is_terminated, note_sigterm


@pytest.fixture
def ignored() -> Iterator[None]:
    """SIGTERM does nothing before it is noted, and none was received."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGTERM, before)
    sigterm._received.clear()


def test_the_first_is_noted_and_the_second_does_what_it_did(ignored):
    note_sigterm()
    assert not is_terminated()
    os.kill(os.getpid(), signal.SIGTERM)
    assert is_terminated()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_all_workers_are_asked_to_make_way_and_the_next_start_is_excused(
    ignored, monkeypatch, tmp_path
):
    mailbox = Mailbox(tmp_path)
    actor = SimpleNamespace(
        regroup=SimpleNamespace(remote=mailbox.regroup),
        requests=SimpleNamespace(remote=mailbox.requests),
    )
    monkeypatch.setattr(ray_workers, "POLL_S", 0.01)
    monkeypatch.setattr(ray_workers.ray, "get", lambda answer: answer)
    note_sigterm()
    os.kill(os.getpid(), signal.SIGTERM)
    with ray_workers._requests_from(actor) as requests:
        while (regroup := requests.regroup()) is None:
            pass
    assert (regroup.kind, regroup.reason) == ("preemption", "a worker received SIGTERM")
    assert not requests.is_stopped()
    for _ in range(10):  # more than may die without a new checkpoint
        mailbox.regroup(regroup)
        assert mailbox.start() is None
