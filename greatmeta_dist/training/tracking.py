"""TensorBoard (DESIGN.md section 8): one writer, and a twin that writes nothing."""

import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from greatmeta_dist.engine.coordinator import StepReport
from greatmeta_dist.meta.factors import FACTOR_KINDS, Factors, FactorSizes
from greatmeta_dist.meta.scheduler import effective_sample_size

ACTIVITY_EDGES = (8, 16, 32, 64, 128)
"""Support rows at which ``meta/weight_by_activity`` changes its curve."""

LAYOUT = {
    "GreatMeta": {
        "loss": ["Multiline", ["train/loss", "train/loss_before"]],
        "effective sample size": ["Multiline", ["meta/effective_sample_size"]],
        "weight by group": ["Multiline", ["meta/weight_by_group/.*"]],
        "correlation with what adaptation gains": [
            "Multiline",
            ["meta/correlation_with_gain/.*"],
        ],
        "weight by activity": ["Multiline", ["meta/weight_by_activity/.*"]],
        "validation RMSE": ["Multiline", ["val/[a-z_]+/rmse"]],
        "validation RMSE by group": ["Multiline", ["val/valid/rmse_by_group/.*"]],
    }
}


class Tracker(Protocol):
    """Where a training's numbers go."""

    def train(
        self, step: int, report: StepReport, users: "StepUsers", scale: float | None
    ) -> None: ...

    def scalars(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class StepUsers:
    """What is known of a step's users, in the order of its report."""

    def __init__(self, group: NDArray[np.int32], num_support: NDArray, names: Sequence[str]):
        self.group, self.num_support, self.names = group, num_support, names


class NullTracker:
    """Writes nothing."""

    def train(self, step: int, report: StepReport, users: StepUsers, scale: float | None) -> None:
        pass

    def scalars(self, step: int, values: dict[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoardTracker:
    """Writes events; a resumed run's curves join without doubled points."""

    def __init__(
        self, folder: Path, *, purge_step: int, hyperparameters: dict[str, Any], sizes: FactorSizes
    ):
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)
        self._sizes = sizes
        if purge_step == 0:
            self._writer.add_custom_scalars(LAYOUT)
            known = {k: v for k, v in hyperparameters.items() if isinstance(v, (int, float, str))}
            for summary in hparams(known, {"val/valid/rmse": 0.0}):
                self._writer._get_file_writer().add_summary(summary)

    def train(self, step: int, report: StepReport, users: StepUsers, scale: float | None) -> None:
        """A step's losses, weights, and factors as the scheduler reads them.

        ``scale`` turns losses into squared ratings; None where they are of clicks.
        """
        write = self._writer
        chosen = report.is_finite.cpu()
        write.add_scalar("train/left_out_share", float((~chosen).double().mean()), step)
        if not chosen.any():
            return
        losses = report.user_statistics.losses.cpu()[chosen]
        loss = float(losses[:, 0].mean())
        write.add_scalar("train/loss", loss, step)
        if scale is not None:
            write.add_scalar("train/rmse", (loss * scale) ** 0.5, step)
        columns = report.user_statistics.factors.cpu()[chosen]
        if not columns.shape[1]:
            return
        write.add_scalar("train/loss_before", float(losses[:, 1].mean()), step)
        weights = report.weights.cpu()[chosen]
        entropy = -(weights * weights.clamp(min=1e-30).log()).sum()
        write.add_scalar("meta/entropy", float(entropy), step)
        size = float(effective_sample_size(weights))
        write.add_scalar("meta/effective_sample_size", size, step)
        write.add_scalar("meta/effective_sample_share", size / len(weights), step)
        relative = weights * len(weights)
        write.add_histogram("meta/weights", relative, step)
        factors = Factors.from_columns(columns, self._sizes)
        gain = losses[:, 1] - losses[:, 0]
        for kind in FACTOR_KINDS:
            values = getattr(factors, kind)
            if values.shape[1]:
                write.add_histogram(f"meta/{kind}", values, step)
                tag = f"meta/correlation_with_gain/{kind}"
                write.add_scalar(tag, _correlation(values.mean(1), gain), step)
        write.add_scalar("meta/correlation_with_gain/weight", _correlation(relative, gain), step)
        is_chosen = chosen.numpy()
        self._weight_by("group", users.group[is_chosen], users.names, relative, step)
        bounds = ["0", *map(str, ACTIVITY_EDGES)]
        names = [f"{low}+" for low in bounds]
        num_support = users.num_support[is_chosen]
        level = np.searchsorted(ACTIVITY_EDGES, num_support, side="right")
        self._weight_by("activity", level, names, relative, step)

    def _weight_by(
        self, what: str, of: NDArray, names: Sequence[str], weight: torch.Tensor, step: int
    ) -> None:
        """Mean weight, relative to uniform, of the users of each kind."""
        total = np.bincount(of, weight.numpy(), len(names))
        count = np.bincount(of, minlength=len(names))
        for name, t, n in zip(names, total, count, strict=True):
            if n:
                tag = f"meta/weight_by_{what}/{name.replace(' ', '_')}"
                self._writer.add_scalar(tag, t / n, step)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag.replace(" ", "_"), value, step)

    def close(self) -> None:
        self._writer.close()


def _correlation(left: torch.Tensor, right: torch.Tensor) -> float:
    """Pearson's, 0 where either does not vary."""
    left, right = left - left.mean(), right - right.mean()
    scale = left.norm() * right.norm()
    return float((left * right).sum() / scale) if scale > 0 else 0.0


def peak_memory_mib() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
