"""What TensorBoard shows of a training: one writer, and a twin that writes nothing.

``tags.py`` says what each tag shows, and ``event_file.py`` where it is written. The training loop
computes what stands under ``best/``, ``val/``, ``perf/`` and ``system/``.

Shapes: B users of the global batch.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from greatmeta_dist.engine.coordinator import StepReport
from greatmeta_dist.meta.factors import FACTOR_KINDS, Factors, FactorSizes
from greatmeta_dist.meta.scheduler import effective_sample_size
from greatmeta_dist.training.event_file import EventFile, write_header
from greatmeta_dist.training.history import History, Kind
from greatmeta_dist.training.run_status import events_value
from greatmeta_dist.training.summaries import (
    HyperParameter,
    histogram_value,
    layout_value,
    scalar_value,
    start_value,
)
from greatmeta_dist.training.tags import describe, first_page

ACTIVITY_EDGES = (8, 16, 32, 64, 128)
"""Numbers of support rows at which a new curve of ``meta/*_by_activity`` starts."""
ACTIVITY_NAMES = [f"{edge}+" for edge in (0, *ACTIVITY_EDGES)]
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

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write values by tag."""

    def write_event(self, step: int, kind: Kind, text: str) -> None:
        """Write that something happened to the run."""

    def close(self) -> None:
        """Nothing is written from here on."""


class NullTracker:
    """Writes nothing: only the first worker keeps records."""

    def write_step(
        self, step: int, report: StepReport, users: StepUsers, loss_scale: float | None
    ) -> None:
        pass

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def write_event(self, step: int, kind: Kind, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoardTracker:
    """Writes TensorBoard events into a folder."""

    def __init__(
        self,
        folder: Path,
        *,
        purge_step: int,
        hyperparameters: Mapping[str, HyperParameter],
        sizes: FactorSizes,
        history: History | None = None,
        has_gpu: bool = False,
        is_group: bool = False,
        is_click: bool = False,
    ):
        """``purge_step`` is the first step to be written, 0 in a fresh run.

        A run that died wrote steps after its last checkpoint. TensorBoard drops what an earlier
        writer recorded from ``purge_step`` on, so the resumed run's curves have no point twice.
        ``history`` takes the events; without one they are not kept. ``has_gpu``, ``is_group`` and
        ``is_click`` say which charts the first page has.
        """
        self._sizes, self._history = sizes, history
        page = first_page(
            has_scheduler=sizes.total > 0, has_gpu=has_gpu, is_group=is_group, is_click=is_click
        )
        write_header(folder, [layout_value(page), start_value(hyperparameters, time.time())])
        self._file = EventFile(folder, purge_step=purge_step)
        self._described: set[str] = set()
        """Tags whose description this file has."""

    def write_step(
        self, step: int, report: StepReport, users: StepUsers, loss_scale: float | None
    ) -> None:
        self._file.write(step, self._step_values(report, users, loss_scale))

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(step, [self._scalar(tag, value) for tag, value in values.items()])

    def write_event(self, step: int, kind: Kind, text: str) -> None:
        if self._history is not None:
            self._history.add(kind, step, text)
            # TensorBoard keeps ten texts of a tag at most, by chance. So each holds the whole
            # history, of which the newest text is always kept.
            self._file.write(step, [events_value(self._history)])

    def close(self) -> None:
        self._file.close()

    def _step_values(
        self, report: StepReport, users: StepUsers, loss_scale: float | None
    ) -> list[Summary.Value]:
        finite = _finite_users(report)
        share = float((~finite.is_finite).double().mean())
        scalars = {"train/nonfinite_share": share}
        if not finite.is_finite.any():
            return self._values(scalars)
        loss = float(finite.losses[:, 0].mean())
        scalars["train/loss"] = loss
        if loss_scale is not None:
            scalars["train/rmse"] = (loss * loss_scale) ** 0.5
        # Without a scheduler there are no factors, no unadapted losses and no learnt weights.
        if not finite.factors.shape[1]:
            return self._values(scalars)
        factors = Factors.from_columns(finite.factors, self._sizes)
        kinds = {kind: getattr(factors, kind) for kind in FACTOR_KINDS}
        kinds = {kind: values for kind, values in kinds.items() if values.shape[1]}
        scalars |= _weight_scalars(finite) | _user_scalars(finite, users, kinds)
        relative = finite.weights * len(finite.weights)
        return self._values(scalars, {"weights": relative, **kinds})

    def _values(
        self, scalars: Mapping[str, float], histograms: Mapping[str, Tensor] | None = None
    ) -> list[Summary.Value]:
        return [self._scalar(tag, value) for tag, value in scalars.items()] + [
            self._histogram(f"meta/{name}", values) for name, values in (histograms or {}).items()
        ]

    def _scalar(self, tag: str, value: float) -> Summary.Value:
        tag = tag.replace(" ", "_")
        return scalar_value(tag, value, self._description(tag))

    def _histogram(self, tag: str, values: Tensor) -> Summary.Value:
        return histogram_value(tag, values.numpy(), self._description(tag))

    def _description(self, tag: str) -> str | None:
        """What a tag shows, for its first value in this file; None for the others."""
        if tag in self._described:
            return None
        self._described.add(tag)
        return describe(tag)


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


def _weight_scalars(finite: _FiniteUsers) -> dict[str, float]:
    """How evenly a step's users count, and their loss before adaptation."""
    weights = finite.weights
    size = float(effective_sample_size(weights))
    entropy = -(weights * weights.clamp(min=LEAST_WEIGHT).log()).sum()
    return {
        "train/loss_unadapted": float(finite.losses[:, 1].mean()),
        "meta/entropy": float(entropy),
        "meta/effective_sample_size": size,
        "meta/effective_sample_share": size / len(weights),
    }


def _user_scalars(
    finite: _FiniteUsers, users: StepUsers, factors: Mapping[str, Tensor]
) -> dict[str, float]:
    """How users' weights and factors go with the gain of adaptation, groups and activity.

    ``factors`` [b, ·] by kind; of each its mean over a user's columns counts.
    """
    is_finite = finite.is_finite.numpy()
    group = users.group[is_finite]
    activity = np.searchsorted(ACTIVITY_EDGES, users.num_support[is_finite], side="right")
    gain = finite.losses[:, 1] - finite.losses[:, 0]
    by_user = {"weight": finite.weights * len(finite.weights)}  # 1 is a uniform weight
    by_user |= {kind: values.mean(1) for kind, values in factors.items()}
    scalars = {}
    for name, values in by_user.items():
        scalars[f"meta/correlation_with_gain/{name}"] = _correlation(values, gain)
        for by, index, names in (
            ("group", group, users.group_names),
            ("activity", activity, ACTIVITY_NAMES),
        ):
            means = _means(values, index, names)
            scalars |= {f"meta/{name}_by_{by}/{part}": mean for part, mean in means.items()}
    return scalars


def _means(values: Tensor, index: NDArray[np.integer], names: Sequence[str]) -> dict[str, float]:
    """The mean of values [b] of each kind of user that is present; ``index`` [b] into names."""
    total = np.bincount(index, values.numpy(), len(names))
    num_users = np.bincount(index, minlength=len(names))
    sums = zip(names, total, num_users, strict=True)
    return {name: of_kind / num for name, of_kind, num in sums if num}


def _correlation(left: Tensor, right: Tensor) -> float:
    """Pearson's correlation of two vectors [B]; 0 where either does not vary."""
    left, right = left - left.mean(), right - right.mean()
    scale = left.norm() * right.norm()
    return float((left * right).sum() / scale) if scale > 0 else 0.0
