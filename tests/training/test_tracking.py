"""TensorBoard shows a step's users, the scheduler's weights, and what both trackers are given."""

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from greatmeta_dist.engine.coordinator import StepReport
from greatmeta_dist.meta.factors import FactorSizes
from greatmeta_dist.meta.user_statistics import UserStatistics
from greatmeta_dist.training.tracking import NullTracker, StepUsers, TensorBoardTracker, Tracker

SIZES = FactorSizes(1, 2, 3)
USERS = StepUsers(np.array([0, 0, 1, 1]), np.array([3, 8, 200, 9]), ["most people", "others"])


def report(is_finite: list[bool], *, num_losses: int = 2, num_factors: int = 6) -> StepReport:
    """Four users; the third weighs as much as the others together."""
    losses = torch.tensor([[1.0, 4.0], [2.0, 4.0], [3.0, 4.0], [2.0, 4.0]])[:, :num_losses]
    factors = torch.arange(24.0).reshape(4, 6)[:, :num_factors]
    weights = torch.tensor([1.0, 1.0, 3.0, 1.0]) / 6
    finite = torch.tensor(is_finite)
    losses = losses.masked_fill(~finite.unsqueeze(1), torch.nan)
    statistics = UserStatistics(losses, torch.ones(4), factors)
    return StepReport(statistics, weights * finite, weights)


def written(folder, *reports: StepReport, loss_scale: float | None = 4.0, purge_step: int = 0):
    tracker = TensorBoardTracker(
        folder, purge_step=purge_step, hyperparameters={"train.steps": 3}, sizes=SIZES
    )
    for step, of_step in enumerate(reports, start=max(purge_step, 1)):
        tracker.write_step(step, of_step, USERS, loss_scale)
    tracker.write_scalars(9, {"perf/bytes/fetch rows": 5.0})
    tracker.close()
    events = EventAccumulator(str(folder), {"scalars": 0})
    events.Reload()
    return events


def value(events, tag: str) -> float:
    return events.Scalars(tag)[0].value


def test_a_step_is_shown_by_its_losses_weights_and_factors(tmp_path):
    events = written(tmp_path, report([True] * 4))
    assert value(events, "train/loss") == 2.0
    assert value(events, "train/loss_unadapted") == 4.0
    assert value(events, "train/rmse") == pytest.approx(8**0.5)
    assert value(events, "train/nonfinite_share") == 0.0
    assert value(events, "meta/effective_sample_size") == pytest.approx(3.0)
    assert value(events, "meta/effective_sample_share") == pytest.approx(0.75)
    entropy = np.log(6) / 2 + np.log(2) / 2
    assert value(events, "meta/entropy") == pytest.approx(entropy)
    assert value(events, "meta/weight_by_group/most_people") == pytest.approx(4 / 6)
    assert value(events, "meta/weight_by_group/others") == pytest.approx(8 / 6)
    assert value(events, "meta/weight_by_activity/0+") == pytest.approx(4 / 6)
    assert value(events, "meta/weight_by_activity/8+") == pytest.approx(4 / 6)
    assert value(events, "meta/weight_by_activity/128+") == pytest.approx(2.0)
    gain, weight = [3.0, 2.0, 1.0, 2.0], [1.0, 1.0, 3.0, 1.0]
    expected = np.corrcoef(gain, weight)[0, 1]
    assert value(events, "meta/correlation_with_gain/weight") == pytest.approx(expected)
    histograms = {"meta/weights", "meta/magnitude", "meta/gap", "meta/agreement"}
    assert set(events.Tags()["histograms"]) == histograms
    assert value(events, "perf/bytes/fetch_rows") == 5.0


def test_users_without_finite_numbers_are_counted_and_enter_nothing_else(tmp_path):
    events = written(tmp_path, report([True, False, False, True]))
    assert value(events, "train/nonfinite_share") == 0.5
    assert value(events, "train/loss") == 1.5
    nobody = written(tmp_path / "nobody", report([False] * 4))
    assert value(nobody, "train/nonfinite_share") == 1.0
    assert "train/loss" not in nobody.Tags()["scalars"]


def test_without_a_scheduler_there_are_losses_only(tmp_path):
    events = written(tmp_path, report([True] * 4, num_losses=1, num_factors=0), loss_scale=None)
    tags = set(events.Tags()["scalars"])
    assert tags == {"train/loss", "train/nonfinite_share", "perf/bytes/fetch_rows"}


def test_a_resumed_run_has_no_step_twice(tmp_path):
    written(tmp_path, *[report([True] * 4)] * 3)
    events = written(tmp_path, *[report([True] * 4)] * 3, purge_step=3)
    assert [e.step for e in events.Scalars("train/loss")] == [1, 2, 3, 4, 5]


def test_the_null_twin_takes_what_the_writer_takes():
    tracker: Tracker = NullTracker()
    tracker.write_step(1, report([True] * 4), USERS, None)
    tracker.write_scalars(1, {"val/valid/rmse": 1.0})
    tracker.close()
