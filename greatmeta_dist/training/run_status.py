"""How a run ended, in TensorBoard's HParams and in the run's history.

TensorBoard reads the status of HParams once for each run, and keeps it. So nothing is written while
a training runs, or a TensorBoard that is open would call it *running* for ever; it shows *unknown*.
The end is written when a training ends, and deleted when another one of the same run
starts. What changes is ``system/status``: a curve, whose last value is a column of HParams.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS, STATUS_UNKNOWN

from greatmeta_dist.training.event_file import delete_ends, write_end
from greatmeta_dist.training.history import History, Kind
from greatmeta_dist.training.summaries import end_value, scalar_value, text_value
from greatmeta_dist.training.tags import describe

TENSORBOARD, METRICS = "tensorboard", "metrics.json"
EVENTS_TAG, STATUS_TAG = "system/events", "system/status"
STATUS: dict[Kind, int] = {
    "done": STATUS_SUCCESS,
    "failure": STATUS_FAILURE,
    "stop": STATUS_UNKNOWN,
}
"""What HParams shows. It has no word for a run that was stopped and can go on."""
RUNNING = 0.0
STATUS_CURVE: dict[Kind, float] = {"done": 1.0, "stop": 2.0, "failure": 3.0}
"""Values of ``system/status``."""


@contextmanager
def recorded_end(run: Path, *, steps: int) -> Iterator[None]:
    """Record how the block ended, which trains the run to ``steps``."""
    folder = run / TENSORBOARD
    delete_ends(folder)
    try:
        yield
    except KeyboardInterrupt:
        # A stop in the last step leaves a complete run.
        is_done = _trained_steps(run) == steps
        with suppress(OSError):  # that training ended so counts more, here and below
            _record(run, "done" if is_done else "stop", "by Ctrl-C, SIGTERM or the driver")
        raise
    except BaseException as error:
        with suppress(OSError):
            _record(run, "failure", f"{error}" or type(error).__name__)
        raise
    _record(run, "done", f"{steps} steps")


def events_value(history: History) -> Summary.Value:
    """The run's history, as TensorBoard's text."""
    return text_value(EVENTS_TAG, history.table(), describe(EVENTS_TAG))


def _record(run: Path, kind: Kind, text: str) -> None:
    """Write how a training ended; nothing where it had not begun."""
    history = History(run)
    if not (run / TENSORBOARD).exists():
        return
    step, events = history.last_step, history.events()
    if not events or events[-1].kind != kind:  # a run that is complete may be started again
        history.add(kind, step, text)
    status = scalar_value(STATUS_TAG, STATUS_CURVE[kind], describe(STATUS_TAG))
    end = end_value(STATUS[kind], time.time())
    write_end(run / TENSORBOARD, step, [end, status, events_value(history)])


def _trained_steps(run: Path) -> int | None:
    """The steps of a run that is complete; None for another."""
    try:
        metrics = json.loads((run / METRICS).read_text())
    except (OSError, ValueError):
        return None
    return int(metrics["step"])
