"""TensorBoard's event files: what stands in a run's folder, and in which order it is read.

TensorBoard reads the files of a folder by name, one after another, and shows them as one run:

- the *header*, first and written anew whenever a training starts: the charts' layout and the
  run's options, which may have changed;
- a file of each training of the run, in the order they started;
- the *end*, last: how the training ended. It is deleted when the next one starts.
"""

import re
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

VERSION = "brain.Event:2"
"""The form of events in which TensorBoard drops points when it is told to."""
HEADER, END = "events.out.tfevents.0000000000.header", ".end"
NUMBER = re.compile(r"\.tfevents\.(\d+)\.")


class EventFile:
    """A new file that is read after those which are there; records are in it once written.

    torch's ``SummaryWriter`` keeps records in memory for up to two minutes. What a killed training
    had recorded before its last checkpoint would be missing for good, since the training that goes
    on starts after it.
    """

    def __init__(self, folder: Path, *, purge_step: int | None = None, suffix: str = ""):
        """From ``purge_step`` on, TensorBoard drops what the files before it hold.

        Raises ``FileExistsError`` where another process makes the same file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # Names hold the time. Clocks of two machines may differ, and two trainings may start in
        # the same second: the number is then the next one.
        number = max(int(time.time()), _last_number(folder) + 1)
        name = f"events.out.tfevents.{number:010d}.{socket.gethostname()}{suffix}"
        self._file = (folder / name).open("xb")
        self._records = RecordWriter(self._file)
        self._write(Event(file_version=VERSION))
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(step=purge_step, session_log=start))

    def write(self, step: int, values: Iterable[Summary.Value]) -> None:
        """Write the values of a step as one record; nothing where there are none."""
        summary = Summary(value=values)
        if summary.value:
            self._write(Event(step=step, summary=summary))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()

    def close(self) -> None:
        self._records.close()


def write_header(folder: Path, values: Iterable[Summary.Value]) -> None:
    """Write a run's header in place of an earlier one."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".header.partial"  # TensorBoard does not read this name
    with partial.open("wb") as file:
        records = RecordWriter(file)
        now = time.time()
        for event in (Event(file_version=VERSION), Event(summary=Summary(value=values))):
            event.wall_time = now
            records.write(event.SerializeToString())
        records.flush()
    partial.replace(folder / HEADER)


def write_end(folder: Path, step: int, values: Iterable[Summary.Value]) -> None:
    """Write how a training ended."""
    delete_ends(folder)
    file = EventFile(folder, suffix=END)
    file.write(step, values)
    file.close()


def delete_ends(folder: Path) -> None:
    """Delete what says how a training ended: another one starts."""
    for path in folder.glob(f"*{END}"):
        path.unlink(missing_ok=True)


def _last_number(folder: Path) -> int:
    numbers = (NUMBER.search(path.name) for path in folder.iterdir())
    return max((int(number[1]) for number in numbers if number), default=0)
