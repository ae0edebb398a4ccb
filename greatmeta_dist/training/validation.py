"""Scores while training: which checkpoint is best, and the curves of every scenario."""

from collections.abc import Iterator
from typing import Any

from greatmeta_dist.data.split import SCENARIOS
from greatmeta_dist.data.store import Store
from greatmeta_dist.evaluation.scoring import MAX_VALID_USERS, Scorer, score_split
from greatmeta_dist.evaluation.summaries import finite_or_none, group_summaries
from greatmeta_dist.training.tracking import Tracker

MAX_WATCHED_USERS = 512
"""Scenarios with more users are not scored while training."""
LOG_LOSS = "log_loss"
"""The mean binary cross-entropy of clicks, by which their best step is chosen."""


class Validation:
    """Scores the model while it trains, and knows which step was best; the same on all workers."""

    def __init__(self, scorer: Scorer, store: Store):
        self._scorer, self._store = scorer, store
        # What the model descends on: of ratings the least squared error is the least RMSE.
        self._loss = LOG_LOSS if store.manifest.is_click else "rmse"
        self.latest: dict[str, float | None] = {}
        """The last validation's numbers; None where one is undefined, or not finite."""
        self.best: dict[str, Any] | None = None
        """``step`` and the numbers of the step with the least loss on the validation users."""
        self._minority_rmse: float | None = None
        """The last validation's; on rank 0."""

    def run(self, step: int, tracker: Tracker) -> None:
        """Score the validation users, and every scenario that is not too large.

        Only the validation users decide which step is best. All workers call it together.
        """
        communicator = self._scorer.worker.communicator
        self._scorer.worker.broadcast_averaged_params()
        for split in ("valid", *SCENARIOS):
            num_users = self._store.manifest.splits.get(split, 0)
            if not num_users or (split != "valid" and num_users > MAX_WATCHED_USERS):
                continue
            summary = self._score(step, split, tracker)
            if split == "valid" and summary is not None:
                self.latest = summary
                loss = summary[self._loss]
                if loss is not None and (self.best is None or loss < self.best[self._loss]):
                    self.best = {"step": step, **summary}
                    tracker.write_scalars(step, {f"best/{k}": v for k, v in self._best_numbers()})
        self.best, self.latest = communicator.broadcast_object((self.best, self.latest))

    def _best_numbers(self) -> Iterator[tuple[str, float]]:
        """What TensorBoard's HParams shows of the step that is the best so far.

        Of its columns few are shown at first. So a metric's largest cutoff stands for the others.
        """
        numbers = {**(self.best or {}), "minority_rmse": self._minority_rmse}
        largest: dict[str, int] = {}
        for name in numbers:
            metric, _, cutoff = name.partition("@")
            if cutoff.isdecimal():
                largest[metric] = max(largest.get(metric, 0), int(cutoff))
        for name, value in numbers.items():
            metric, _, cutoff = name.partition("@")
            is_main = metric not in largest or cutoff == str(largest[metric])
            if value is not None and is_main:
                yield name, value

    def is_best(self, step: int) -> bool:
        return self.best is not None and self.best["step"] == step

    def describe_best(self) -> str:
        """The number by which the best step is chosen, in words."""
        assert self.best is not None
        name = "RMSE" if self._loss == "rmse" else "log loss"
        return f"validation {name} {self.best[self._loss]:.4f}"

    def _score(self, step: int, split: str, tracker: Tracker) -> dict[str, float | None] | None:
        """A split's metrics, written to the records; None except on rank 0."""
        scored = score_split(self._scorer, self._store, split, max_users=MAX_VALID_USERS)
        if scored is None:
            return None
        numbers = scored.models["adapted"].summary()
        if scored.log_loss:
            num_rows = max(int(scored.num_rows.sum()), 1)
            numbers[LOG_LOSS] = float(scored.log_loss["adapted"].sum()) / num_rows
        summary = finite_or_none(numbers)
        groups = group_summaries(scored.models, scored.group, self._scorer.grouping)
        curves = {f"val/{split}/{k}": v for k, v in summary.items()}
        curves |= {
            f"val/{split}/rmse_by_group/{name}": group["models"]["adapted"]["rmse"]
            for name, group in groups["by_group"].items()
        }
        minority = groups["minority"]["models"]["adapted"]["rmse"] if "minority" in groups else None
        curves[f"val/{split}/minority_rmse"] = minority
        if split == "valid":
            self._minority_rmse = minority
        tracker.write_scalars(step, {tag: v for tag, v in curves.items() if v is not None})
        return summary
