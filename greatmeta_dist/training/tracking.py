"""What TensorBoard shows of a training: one writer, and a twin that writes nothing.

Tags (DESIGN.md section 8), by what stands before the first slash:

- ``train/``, of a step's users: ``loss`` on their query rows after adaptation, ``loss_unadapted``
  before it, ``rmse`` in the ratings' units, and ``nonfinite_share``, the share of users whose
  loss, gradient or factors are not finite: they count in nothing else.
- ``meta/``, of the scheduler: ``weights`` (relative to uniform ones), their ``entropy``,
  ``effective_sample_size`` and ``effective_sample_share`` (of the users); each kind of gradient
  factor; ``correlation_with_gain/*`` of weights and factors, where gain is the loss that adaptation
  takes away; ``weight_by_group/*`` and ``weight_by_activity/*``, mean relative weights by
  preference group and by number of support rows.
- ``val/<split>/``: every metric of the adapted model, and its RMSE by preference group.
- ``perf/``: ``users_per_s``, ``seconds/*`` and ``bytes/*`` by phase of a step,
  ``seconds_for_snapshot`` of a checkpoint.
- ``system/``: ``peak_memory_mib`` of the first worker.

The training loop computes what stands under ``val/``, ``perf/`` and ``system/``.

Shapes: B users of the global batch.
"""

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from greatmeta_dist.engine.coordinator import StepReport
from greatmeta_dist.meta.factors import FACTOR_KINDS, Factors, FactorSizes
from greatmeta_dist.meta.scheduler import effective_sample_size

ACTIVITY_EDGES = (8, 16, 32, 64, 128)
"""Numbers of support rows at which a new curve of ``meta/weight_by_activity`` starts."""
ACTIVITY_NAMES = [f"{edge}+" for edge in (0, *ACTIVITY_EDGES)]

CHARTS = {
    "loss, adapted and unadapted": "train/loss.*",
    "effective sample size": "meta/effective_sample_size",
    "relative weight by preference group": "meta/weight_by_group/.*",
    "relative weight by activity": "meta/weight_by_activity/.*",
    "correlation with the gain of adaptation": "meta/correlation_with_gain/.*",
    "validation RMSE": "val/[a-z_]+/rmse",
    "validation RMSE by preference group": "val/valid/rmse_by_group/.*",
}
"""Charts of TensorBoard's custom scalars page: title, and a regular expression of their tags."""

LEAST_WEIGHT = 1e-30
"""Weights are not below this in logarithms, so that a weight of 0 adds nothing to the entropy."""


@dataclass(frozen=True)
class StepUsers:
    """What the store knows of a step's users, in the order of the step's report."""

    group: NDArray[np.int32]
    """[B] index of each user's preference group."""
    num_support: NDArray[np.integer]
    """[B] number of support rows."""
    group_names: Sequence[str]


class Tracker(Protocol):
    """Where the numbers of a training go."""

    def write_step(
        self, step: int, report: StepReport, users: StepUsers, loss_scale: float | None
    ) -> None:
        """Write the losses, weights and factors of a step's users.

        A loss times ``loss_scale`` is a squared error in the ratings' units; None for clicks,
        whose losses are cross-entropies.
        """

    def write_scalars(self, step: int, values: dict[str, float]) -> None:
        """Write values by tag."""

    def close(self) -> None:
        """Write what is still in memory."""


class NullTracker:
    """Writes nothing: only the first worker keeps records."""

    def write_step(
        self, step: int, report: StepReport, users: StepUsers, loss_scale: float | None
    ) -> None:
        pass

    def write_scalars(self, step: int, values: dict[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoardTracker:
    """Writes TensorBoard events into a folder."""

    def __init__(
        self, folder: Path, *, purge_step: int, hyperparameters: dict[str, Any], sizes: FactorSizes
    ):
        """``purge_step`` is the first step to be written, 0 in a fresh run.

        A run that died wrote steps after its last checkpoint. TensorBoard drops what an earlier
        writer recorded from ``purge_step`` on, so the resumed run's curves have no point twice.
        """
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)
        self._sizes = sizes
        if purge_step == 0:
            self._write_header(hyperparameters)

    def _write_header(self, hyperparameters: dict[str, Any]) -> None:
        """The charts' layout, and the run's row in the HParams table."""
        layout = {title: ["Multiline", [tags]] for title, tags in CHARTS.items()}
        self._writer.add_custom_scalars({"GreatMeta": layout})
        known = {k: v for k, v in hyperparameters.items() if isinstance(v, (int, float, str))}
        # SummaryWriter.add_hparams would write into a folder of its own, a second run for
        # TensorBoard; the summaries it makes are added to this run instead.
        for summary in hparams(known, {"val/valid/rmse": 0.0}):
            self._writer._get_file_writer().add_summary(summary)

    def write_step(
        self, step: int, report: StepReport, users: StepUsers, loss_scale: float | None
    ) -> None:
        finite = _finite_users(report)
        share = float((~finite.is_finite).double().mean())
        self._writer.add_scalar("train/nonfinite_share", share, step)
        if not finite.is_finite.any():
            return
        loss = float(finite.losses[:, 0].mean())
        self._writer.add_scalar("train/loss", loss, step)
        if loss_scale is not None:
            self._writer.add_scalar("train/rmse", (loss * loss_scale) ** 0.5, step)
        # Without a scheduler there are no factors, no unadapted losses and no learnt weights.
        if finite.factors.shape[1]:
            self._write_scheduler(step, finite, users)

    def _write_scheduler(self, step: int, finite: "_FiniteUsers", users: StepUsers) -> None:
        """How the scheduler weighs the step's users, and what it reads of them."""
        losses, weights = finite.losses, finite.weights
        self._writer.add_scalar("train/loss_unadapted", float(losses[:, 1].mean()), step)
        entropy = -(weights * weights.clamp(min=LEAST_WEIGHT).log()).sum()
        self._writer.add_scalar("meta/entropy", float(entropy), step)
        size = float(effective_sample_size(weights))
        self._writer.add_scalar("meta/effective_sample_size", size, step)
        self._writer.add_scalar("meta/effective_sample_share", size / len(weights), step)
        relative = weights * len(weights)
        self._writer.add_histogram("meta/weights", relative, step)
        gain = losses[:, 1] - losses[:, 0]
        self._write_correlation("weight", relative, gain, step)
        self._write_factors(step, Factors.from_columns(finite.factors, self._sizes), gain)
        is_finite = finite.is_finite.numpy()
        self._write_mean_weights("group", users.group[is_finite], users.group_names, relative, step)
        activity = np.searchsorted(ACTIVITY_EDGES, users.num_support[is_finite], side="right")
        self._write_mean_weights("activity", activity, ACTIVITY_NAMES, relative, step)

    def _write_factors(self, step: int, factors: Factors, gain: Tensor) -> None:
        """Each kind of factor, and how its mean over a user's columns goes with the gain [B]."""
        for kind in FACTOR_KINDS:
            values = getattr(factors, kind)  # [B, columns of this kind], perhaps none
            if values.shape[1]:
                self._writer.add_histogram(f"meta/{kind}", values, step)
                self._write_correlation(kind, values.mean(1), gain, step)

    def _write_correlation(self, name: str, values: Tensor, gain: Tensor, step: int) -> None:
        """Pearson's correlation of values [B] with the gain [B]."""
        tag = f"meta/correlation_with_gain/{name}"
        self._writer.add_scalar(tag, _correlation(values, gain), step)

    def _write_mean_weights(
        self, by: str, index: NDArray[np.integer], names: Sequence[str], weight: Tensor, step: int
    ) -> None:
        """The mean weight [B] of each kind of user that is present; ``index`` [B] into names."""
        total = np.bincount(index, weight.numpy(), len(names))
        num_users = np.bincount(index, minlength=len(names))
        for name, of_kind, num in zip(names, total, num_users, strict=True):
            if num:
                tag = f"meta/weight_by_{by}/{name.replace(' ', '_')}"
                self._writer.add_scalar(tag, of_kind / num, step)

    def write_scalars(self, step: int, values: dict[str, float]) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag.replace(" ", "_"), value, step)

    def close(self) -> None:
        self._writer.close()


class _FiniteUsers(NamedTuple):
    """What a step's report says of the users with finite numbers, on the CPU; b of B users."""

    is_finite: Tensor
    """[B]"""
    losses: Tensor
    """[b, 2] query loss after adaptation and before it; without a scheduler [b, 1], after it."""
    factors: Tensor
    """[b, ·] as ``Factors.columns``; no columns without a scheduler."""
    weights: Tensor
    """[b]"""


def _finite_users(report: StepReport) -> _FiniteUsers:
    """The only place here that knows the report's fields."""
    statistics, is_finite = report.user_statistics, report.is_finite.cpu()
    of_users = (statistics.losses, statistics.factors, report.weights)
    return _FiniteUsers(is_finite, *(values.cpu()[is_finite] for values in of_users))


def _correlation(left: Tensor, right: Tensor) -> float:
    """Pearson's correlation of two vectors [B]; 0 where either does not vary."""
    left, right = left - left.mean(), right - right.mean()
    scale = left.norm() * right.norm()
    return float((left * right).sum() / scale) if scale > 0 else 0.0


def peak_memory_mib() -> float:
    """Peak resident memory of this process; Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
