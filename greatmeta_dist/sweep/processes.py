"""Runs trainings side by side, each in a process of its own, as ``Room`` has room for them."""

import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import greatmeta_dist
from greatmeta_dist.config import Config
from greatmeta_dist.signals import noted_stop_signals
from greatmeta_dist.sweep.board import Board
from greatmeta_dist.sweep.folder import Job
from greatmeta_dist.sweep.job import CODES, INTERRUPTED, PREFIX
from greatmeta_dist.sweep.results import last_line
from greatmeta_dist.sweep.room import Room
from greatmeta_dist.training.run_folder import LOG

POLL_S = 0.2
ENTRY = "greatmeta_dist.sweep.job"


@dataclass(frozen=True)
class Task:
    """A job that can start."""

    job: Job
    run: Path
    config: Config
    need: dict[str, float]


class Source(Protocol):
    """Where jobs come from."""

    total: int
    """All jobs that are to run."""

    def next_task(self) -> Task | None:
        """The next job; None where there is none any more."""

    def ended(self, task: Task) -> None:
        """Take note that a job has ended."""


@dataclass
class _Process:
    task: Task
    process: subprocess.Popen[bytes]
    gpus: list[str]


def run_side_by_side(source: Source, room: Room, board: Board, *, address: str | None) -> None:
    """Run all jobs of a source; whether one fails makes no difference to the others.

    The first Ctrl-C or SIGTERM stops all with a checkpoint, and raises ``KeyboardInterrupt`` when
    they have ended; the second one kills them. ``address`` is that of a Ray cluster they share.
    """
    running: list[_Process] = []

    def stop_all() -> None:
        board.say("stopping all jobs, each after a checkpoint; Ctrl-C again kills them")
        for one in running:
            one.process.send_signal(signal.SIGINT)

    waiting: Task | None = None
    try:
        with noted_stop_signals(stop_all) as stop:
            while True:
                while not stop.is_received:
                    waiting = waiting or source.next_task()
                    if waiting is None or not room.holds(waiting.need):
                        break
                    running.append(_start(waiting, room, address))
                    board.started(waiting.job.name)
                    waiting = None
                if not running:
                    break
                time.sleep(POLL_S)
                _collect(running, source, room, board)
            if stop.is_received:
                raise KeyboardInterrupt
    finally:
        for one in running:
            with suppress(ProcessLookupError):
                os.killpg(one.process.pid, signal.SIGKILL)
            _close(one)


def _start(task: Task, room: Room, address: str | None) -> _Process:
    """Start a job's process, in a group of its own: the terminal's Ctrl-C is for the sweep."""
    gpus = room.take(task.need)
    environment = _environment() | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})
    task.run.mkdir(parents=True, exist_ok=True)
    with (task.run / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", ENTRY],
            stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, process_group=0,
        )  # fmt: skip
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it died at once, which its exit code will tell
        pickle.dump((task.config, task.run, address), process.stdin)
        process.stdin.flush()
    return _Process(task, process, gpus)


def _environment() -> dict[str, str]:
    """Has a process find this package, and nothing that happens to lie in the current folder."""
    here = str(Path(greatmeta_dist.__file__).parent.parent)
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def _collect(running: list[_Process], source: Source, room: Room, board: Board) -> None:
    """Note which jobs have ended, and show how far the others are."""
    for one in [p for p in running if p.process.poll() is not None]:
        running.remove(one)
        room.leave(one.task.need, one.gpus)
        _close(one)
        _write_end(one)
        source.ended(one.task)
    board.show({one.task.job.name: last_line(one.task.run) for one in running})


def _close(one: _Process) -> None:
    """Wait for a process that has ended, and close the pipe to it."""
    one.process.wait()
    if one.process.stdin is not None:
        with suppress(BrokenPipeError):
            one.process.stdin.close()


def _write_end(one: _Process) -> None:
    """Have the log's last line say how a process ended that could not say it itself."""
    code = one.process.returncode
    if code in CODES.values() and (code == 0 or last_line(one.task.run).startswith(PREFIX)):
        return
    if code == -signal.SIGINT:
        line = INTERRUPTED
    elif code < 0:
        line = f"its process died of {signal.Signals(-code).name}"
    else:
        line = f"its process ended with exit code {code}"
    with (one.task.run / LOG).open("a") as log:
        log.write(f"\n{PREFIX}{line}\n")
