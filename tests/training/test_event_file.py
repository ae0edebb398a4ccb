"""TensorBoard reads a run's files in the order in which its trainings started."""

import time

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from greatmeta_dist.training.event_file import EventFile, delete_ends, write_end, write_header
from greatmeta_dist.training.summaries import scalar_value


def write(folder, steps, *, purge_step):
    file = EventFile(folder, purge_step=purge_step)
    for step in steps:
        file.write(step, [scalar_value("x", step, "what x is")])
    file.close()


def read(folder) -> list[int]:
    events = EventAccumulator(str(folder), {"scalars": 0})
    events.Reload()
    return [point.step for point in events.Scalars("x")]


def test_a_training_on_a_machine_whose_clock_is_behind_is_read_last(tmp_path, monkeypatch):
    write(tmp_path, [1, 2, 3], purge_step=0)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 1000)
    write(tmp_path, [3, 4], purge_step=3)
    assert read(tmp_path) == [1, 2, 3, 4]


def test_trainings_that_start_in_the_same_second_have_files_of_their_own(tmp_path):
    for start in range(4):
        write(tmp_path, [start, start + 1], purge_step=start)
    assert len(list(tmp_path.iterdir())) == 4
    assert read(tmp_path) == [0, 1, 2, 3, 4]


def test_records_can_be_read_before_the_file_is_closed(tmp_path):
    file = EventFile(tmp_path, purge_step=0)
    file.write(7, [scalar_value("x", 1.0, "")])
    assert read(tmp_path) == [7]
    file.close()


def test_the_header_is_read_first_and_the_end_last(tmp_path):
    write_end(tmp_path, 9, [scalar_value("x", 2.0, "")])
    write(tmp_path, [5], purge_step=0)
    write_end(tmp_path, 9, [scalar_value("x", 2.0, "")])
    write_header(tmp_path, [scalar_value("y", 0.0, "")])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 3
    assert names[0].endswith(".header")
    assert names[-1].endswith(".end")
    assert read(tmp_path) == [5, 9]
    delete_ends(tmp_path)
    assert read(tmp_path) == [5]
