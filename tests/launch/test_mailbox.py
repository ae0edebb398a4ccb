"""What workers post is shown once and in order, and the outcome that counts is kept."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from small_training import Lines

from greatmeta_dist.launch.mailbox import Mailbox, PostingDisplay, shown_messages
from greatmeta_dist.launch.restart import MAX_FRUITLESS_STARTS, Outcome
from greatmeta_dist.training.regroup import Regroup


class Screen(Lines):
    """A display that keeps what its bars show, too."""

    @contextmanager
    def bar(self, label, total, unit, *, done=0):
        self.lines.append(f"{label} {done}/{total} {unit}")
        yield SimpleNamespace(update=lambda done, detail="": self.lines.append(f"{done} {detail}"))
        self.lines.append(f"{label} ends")


@pytest.fixture
def mailbox(tmp_path) -> Mailbox:
    return Mailbox(tmp_path)


def actor(mailbox: Mailbox) -> SimpleNamespace:
    """The mailbox as workers see it, through Ray."""
    return SimpleNamespace(post=SimpleNamespace(remote=mailbox.post))


def test_a_workers_display_shows_on_the_drivers(mailbox):
    display, screen = PostingDisplay(actor(mailbox)), Screen()
    display.say("hello")
    with display.bar("train", 9, "steps", done=2) as bar:
        bar.update(3, "loss 1")
    with shown_messages(screen) as show:
        show(mailbox.drain())
        show(mailbox.drain())
    assert screen.lines == ["hello", "train 2/9 steps", "3 loss 1", "train ends"]


def test_the_bar_of_a_group_that_died_ends_when_the_next_one_begins(mailbox):
    screen = Screen()
    with shown_messages(screen) as show:
        show([("bar", "train", 9, "steps", 0), ("update", 1, "a")])
        show([("bar", "train", 9, "steps", 4), ("update", 5, "b")])
    assert screen.lines == [
        "train 0/9 steps", "1 a", "train ends", "train 4/9 steps", "5 b", "train ends",
    ]  # fmt: skip


def test_a_failure_counts_more_than_what_others_report(mailbox):
    assert mailbox.outcome() is None
    mailbox.conclude(Outcome("interrupted"))
    mailbox.conclude(Outcome("done", {}))
    assert mailbox.outcome() == Outcome("interrupted")
    mailbox.conclude(Outcome("failed", message="the disk is full"))
    mailbox.conclude(Outcome("done", {}))
    assert mailbox.outcome() == Outcome("failed", message="the disk is full")
    assert mailbox.start() == mailbox.outcome()


def test_a_group_is_not_started_without_end(mailbox):
    assert [mailbox.start() for _ in range(MAX_FRUITLESS_STARTS)] == [None] * MAX_FRUITLESS_STARTS
    outcome = mailbox.start()
    assert outcome is not None
    assert outcome == mailbox.outcome()


def test_a_stop_stays(mailbox):
    assert not mailbox.requests()[0]
    mailbox.stop()
    assert mailbox.requests()[0]


def test_a_group_is_asked_to_make_way_once_and_that_is_no_failure(mailbox):
    regroup = Regroup("preemption", "its node goes")
    for _ in range(2 * MAX_FRUITLESS_STARTS):
        mailbox.regroup(regroup)
        assert mailbox.requests() == (False, regroup)
        assert mailbox.start() is None
        assert mailbox.requests() == (False, None)
