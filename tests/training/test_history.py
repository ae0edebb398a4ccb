"""A run's history is kept over all its trainings, whatever ends them."""

from greatmeta_dist.training.history import MAX_SHOWN_CHECKPOINTS, History


def test_events_come_back_in_order(tmp_path):
    history = History(tmp_path)
    assert history.events() == []
    assert history.last_step == 0
    history.add("start", 0, "1 worker")
    history.add("checkpoint", 10, "two\nlines")
    assert [(e.kind, e.step, e.text) for e in history.events()] == [
        ("start", 0, "1 worker"),
        ("checkpoint", 10, "two lines"),
    ]
    assert history.last_step == 10


def test_half_a_line_costs_no_other(tmp_path):
    history = History(tmp_path)
    history.add("start", 0, "")
    history.add("checkpoint", 10, "")
    path = tmp_path / "history.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    history.add("restart", 0, "")
    assert [event.kind for event in history.events()] == ["start", "restart"]


def test_a_training_that_follows_one_without_an_end_is_a_restart(tmp_path):
    history = History(tmp_path)
    assert history.kind_of_start(0) == "start"
    assert history.kind_of_start(5) == "resume"
    history.add("start", 0, "")
    history.add("checkpoint", 10, "")
    assert history.kind_of_start(10) == "restart"
    for end in ("stop", "failure", "done"):
        history.add(end, 10, "")
        assert history.kind_of_start(10) == "resume"


def test_the_table_has_the_newest_first_and_few_checkpoints(tmp_path):
    history = History(tmp_path)
    history.add("start", 0, "a|b")
    for step in range(1, 30):
        history.add("checkpoint", step, "")
    rows = history.table().splitlines()[2:]
    assert len(rows) == MAX_SHOWN_CHECKPOINTS + 1
    assert rows[0].startswith("| 29 |")
    assert rows[-1].endswith(r"a\|b |")
