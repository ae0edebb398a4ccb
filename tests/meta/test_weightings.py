"""Weightings: what each wants for preference groups, and one that another package adds."""

from collections.abc import Iterator
from importlib import invalidate_caches
from pathlib import Path

import numpy as np
import pytest
import torch
from random_tasks import make_tasks

from greatmeta_dist.batching.collate import build_batch
from greatmeta_dist.config import Config, SchedulerConfig
from greatmeta_dist.engine.weighting import make_weighting
from greatmeta_dist.engine.worker import StoreFacts, Worker
from greatmeta_dist.errors import InputError
from greatmeta_dist.extensions import WEIGHTINGS
from greatmeta_dist.meta.batch import StepBatch
from greatmeta_dist.meta.user_statistics import UserStatistics
from greatmeta_dist.meta.weightings.balanced import Balanced, difficulty_weights
from greatmeta_dist.meta.weightings.base import GroupStatistics, UserWeighting
from greatmeta_dist.meta.weightings.cvar import Cvar
from greatmeta_dist.meta.weightings.groups import EqualGroups, equal_group_weights

WORST_USERS = '''
"""Only the worst fifth of the users by loss counts, by another package."""

import torch

from greatmeta_dist.meta.weightings.base import UserWeighting, proportional_weights

WORST_SHARE = 0.2


class WorstUsers(UserWeighting):
    def compute_weights(self, users, scheduler):
        loss = users.losses[:, 0]
        is_worst = loss >= torch.nanquantile(loss, 1 - WORST_SHARE)
        return proportional_weights(is_worst.to(loss), users)
'''


def users_with(*losses: float) -> UserStatistics:
    """Users with these query losses."""
    loss = torch.tensor(losses)
    return UserStatistics(loss.unsqueeze(1), torch.zeros(len(loss)), torch.zeros(len(loss), 0))


def weights_of(weighting: UserWeighting, *losses: float) -> list[float]:
    return weighting.compute_weights(users_with(*losses), None).tolist()


def groups_of(*groups: tuple[float, float, float]) -> GroupStatistics:
    """From (size, difficulty, its error) of each."""
    return GroupStatistics(*np.array(groups, np.float64).T)


def test_all_groups_count_the_same():
    groups = groups_of((70, 1.0, 0.0), (20, 1.0, 0.0), (10, 1.0, 0.0))
    assert equal_group_weights(groups) * [0.7, 0.2, 0.1] == pytest.approx([1 / 3] * 3)
    assert (EqualGroups().target_weights(groups) == equal_group_weights(groups)).all()


def test_rare_and_difficult_groups_count_more_and_no_others():
    easy, rare_easy = (700, 0.9, 0.02), (50, 0.8, 0.02)
    frequent, rare = (400, 1.5, 0.02), (50, 1.5, 0.02)
    unsure, little = (50, 1.5, 0.17), (50, 1.185, 0.02)
    groups = groups_of(easy, rare_easy, frequent, rare, unsure, little)
    weights = difficulty_weights(groups, 1.0)
    sizes = groups.size
    assert weights @ sizes == pytest.approx(sizes.sum())
    rarity = sizes.sum() / (6 * 50)
    assert weights / weights[0] == pytest.approx([1, 1, 1, rarity, 1, rarity**0.5])
    assert (difficulty_weights(groups_of(easy, rare_easy, unsure), 1.5) == 1).all()
    assert (difficulty_weights(groups, 0.0) == 1).all()
    twice = difficulty_weights(groups, 2.0)
    assert twice[3] / twice[0] == pytest.approx(rarity**2)
    assert (difficulty_weights(groups_of((3, 1.0, 0.0), (0, 1.0, 0.0)), 1.5) == 1).all()
    assert (Balanced(balance_strength=2.0).target_weights(groups) == twice).all()


def test_balanced_describes_which_groups_weigh_more():
    describe = Balanced().describe
    alike = "none of 2 preference groups are rare and difficult; all users weigh the same"
    assert describe(np.ones(2)) == alike
    one = "1 of 2 preference groups is rare and difficult; their users weigh more"
    assert describe(np.array([0.9, 2.0])) == one


def test_cvar_lets_the_worst_share_of_the_users_count_alike():
    losses = [1.0, 5.0, 2.0, 4.0, 3.0]
    assert weights_of(Cvar(worst_fraction=0.4), *losses) == pytest.approx([0, 0.5, 0, 0.5, 0])
    assert weights_of(Cvar(worst_fraction=1.0), *losses) == pytest.approx([0.2] * 5)
    # Half a user: the share ends within the third one.
    assert weights_of(Cvar(worst_fraction=0.5), *losses) == pytest.approx([0, 0.4, 0, 0.4, 0.2])
    assert weights_of(Cvar(worst_fraction=0.01), *losses) == pytest.approx([0, 1, 0, 0, 0])


def test_cvar_weighs_users_with_the_same_loss_alike_in_any_order():
    losses = [2.0, 7.0, 2.0, 1.0, 2.0]
    weights = weights_of(Cvar(worst_fraction=0.4), *losses)
    assert weights == pytest.approx([1 / 6, 1 / 2, 1 / 6, 0, 1 / 6])
    assert weights_of(Cvar(worst_fraction=0.4), *losses[::-1]) == weights[::-1]
    assert weights_of(Cvar(), *[3.0] * 4) == [0.25] * 4


def test_cvar_leaves_out_users_whose_loss_is_not_finite():
    losses = [float("nan"), 1.0, float("inf"), 3.0, 2.0, 4.0]
    assert weights_of(Cvar(worst_fraction=0.5), *losses) == pytest.approx([0, 0, 0, 0.5, 0, 0.5])
    assert weights_of(Cvar(), float("nan"), float("inf")) == [0, 0]


def test_the_gradient_that_cvar_weighs_is_that_of_the_worst_users_mean_loss():
    rng = torch.Generator().manual_seed(0)
    theta = torch.randn(4, generator=rng, dtype=torch.float64, requires_grad=True)
    loss = (torch.randn(35, 4, generator=rng, dtype=torch.float64) @ theta) ** 2
    statistics = UserStatistics(loss.detach().unsqueeze(1), torch.zeros(35), torch.zeros(35, 0))
    weights = Cvar().compute_weights(statistics, None)
    (weighed,) = torch.autograd.grad(weights @ loss, theta, retain_graph=True)
    (worst,) = torch.autograd.grad(loss.topk(7).values.mean(), theta)
    torch.testing.assert_close(weighed, worst)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1])
def test_the_worst_fraction_is_above_0_and_at_most_1(fraction):
    with pytest.raises(InputError, match=r"scheduler\.worst_fraction"):
        SchedulerConfig(worst_fraction=fraction)


@pytest.mark.parametrize("kind", WEIGHTINGS.names())
def test_every_built_in_weighting_is_made_from_options(kind):
    weighting = make_weighting(SchedulerConfig(kind=kind, magnitude="norm", max_weight_ratio=3.0))
    assert isinstance(weighting, UserWeighting)
    assert weighting == make_weighting(
        SchedulerConfig(kind=kind, magnitude="norm", max_weight_ratio=3.0)
    )
    assert weighting.max_weight_ratio == 3.0


@pytest.fixture
def worst_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another package with a weighting of its own, as pip would install it."""
    (tmp_path / "worst_package.py").write_text(WORST_USERS)
    info = tmp_path / "worst_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: worst-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[greatmeta_dist.weightings]\nworst = worst_package:WorstUsers\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    invalidate_caches()
    yield
    invalidate_caches()


@pytest.mark.parametrize("kind", ["worst", "cvar"])
def test_a_weighting_of_this_or_another_package_trains_the_worst_users_alone(worst_package, kind):
    assert kind in WEIGHTINGS.names()
    config = Config(scheduler=SchedulerConfig(kind=kind))
    tasks = make_tasks(np.random.default_rng(0), num_users=10)
    worker = Worker(config, StoreFacts(2, 3, tasks.num_rows), torch.device("cpu"))
    worker.keep_averages(range(10), 10)
    batch = build_batch(
        tasks.table,
        tasks.items,
        np.arange(10),
        has_support_gradient=worker.model.has_support_gradient,
        has_row_norms=False,
    )
    before = worker.layers.flat.clone()
    for _ in range(3):
        report = worker.step(StepBatch.of([[batch]]))
        assert report is not None
        worst = report.user_statistics.losses[:, 0].argsort(descending=True)
        assert report.weights[worst].tolist() == pytest.approx([0.5, 0.5, *[0.0] * 8])
    assert worker.layers.flat.isfinite().all()
    assert not torch.equal(worker.layers.flat, before)
    assert "phi" not in {name.split(".")[0] for name in worker.dense_state()}


def test_an_unknown_weighting_is_named_with_those_that_there_are():
    with pytest.raises(
        InputError, match=r"scheduler\.kind is 'worst'; expected one of balanced, mlp"
    ):
        SchedulerConfig(kind="worst")
