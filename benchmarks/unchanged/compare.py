"""Two runs, tensor by tensor, loss by loss, and by what they predict."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from greatmeta_dist.engine import checkpoint


@dataclass(frozen=True)
class Difference:
    """What two runs differ in."""

    tensors: int
    """Tensors of the checkpoints: θ, φ, optimizers, means, factor averages."""
    unequal: list[str]
    """Those that are missing in one, or of other bits."""
    largest: float
    """Largest difference of two numbers in the same place."""
    largest_in: str
    """The tensor it is in; empty where there is none."""
    are_losses_equal: bool
    """Whether the losses of all steps are the same bits."""
    rmse: float
    """Largest difference of an adapted RMSE, over scenarios."""

    @property
    def is_none(self) -> bool:
        return not self.unequal and self.are_losses_equal and self.rmse == 0


def compare_runs(old: Path, new: Path, step: int) -> Difference:
    """Compare two evaluated runs after a step; both need a checkpoint and a loss of every step."""
    before, now = _tensors(old, step), _tensors(new, step)
    shared = before.keys() & now.keys()
    unequal = [name for name in shared if not _same_bits(before[name], now[name])]
    distances = {name: _distance(before[name], now[name]) for name in unequal}
    largest_in = max(distances, key=lambda name: distances[name], default="")
    losses_before, losses_now = read_scalar(old, "train/loss"), read_scalar(new, "train/loss")
    scores_before, scores_now = _adapted_rmse(old), _adapted_rmse(new)
    return Difference(
        tensors=len(before.keys() | now.keys()),
        unequal=sorted([*unequal, *(before.keys() ^ now.keys())]),
        largest=distances.get(largest_in, 0.0),
        largest_in=largest_in,
        are_losses_equal=losses_before == losses_now and len(losses_now) == step,
        rmse=max(abs(scores_before[name] - scores_now[name]) for name in scores_before),
    )


def read_scalar(run: Path, tag: str) -> list[tuple[int, float]]:
    """Steps and values of a TensorBoard tag."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def _tensors(run: Path, step: int) -> dict[str, Tensor]:
    saved = checkpoint.load(run / "checkpoints", step)
    if saved is None:
        raise RuntimeError(f"{run} has no whole checkpoint of step {step}")
    tables = {
        f"{t}/{name}": v for t, entries in saved.tables.items() for name, v in entries.items()
    }
    return {**saved.dense, **tables}


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()
    )


def _distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float((a.to(torch.float64) - b.to(torch.float64)).abs().max())


def _adapted_rmse(run: Path) -> dict[str, float]:
    """By scenario."""
    scenarios = json.loads((run / "evaluation.json").read_text())["scenarios"]
    return {name: found["models"]["adapted"]["rmse"] for name, found in scenarios.items()}
