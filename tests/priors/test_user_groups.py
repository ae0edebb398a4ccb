"""Preference groups are found in what users choose and like."""

import numpy as np
import pytest
from fitted import fit_named, grouping_of, transform_of
from logs import csv_config, write_log
from profiled import bias_of, users_of_two_kinds
from sklearn.metrics import roc_auc_score
from stores import CHOICE

from benchmarks.oracle import Oracle
from greatmeta_dist.config import DataConfig, PriorsConfig
from greatmeta_dist.config.priors import UserGroupsConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import InputError
from greatmeta_dist.evaluation.baselines import Baselines
from greatmeta_dist.priors.base import TrainingRows
from greatmeta_dist.priors.bayesian_mf import BayesianMFPrior
from greatmeta_dist.priors.bias import BiasPrior
from greatmeta_dist.priors.content_model import ContentModel
from greatmeta_dist.priors.new_item_prior import NewItemPrior
from greatmeta_dist.priors.user_groups import (
    UserGroup,
    UserGroupsPrior,
    difficulties,
    minority_groups,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("groups") / "store"
    prepare(DataConfig(users=1500, mean_interactions=60.0), folder)
    return Store(folder)


@pytest.fixture(scope="module")
def priors(store):
    return fit_named(store.training_rows(), "bias", "user_groups")


def test_groups_of_the_log_tell_the_small_true_groups(store, priors):
    users = store.split("train", CHOICE)
    grouping = grouping_of(store, priors)
    group = grouping.estimated(users, is_training=True)
    sizes = np.array([g.size for g in priors["user_groups"].groups])
    assert sizes.sum() == len(users)
    assert (np.bincount(group, minlength=len(sizes)) == sizes).all()
    is_minority = np.isin(users.known_group, grouping.minority)
    assert roc_auc_score(is_minority, -sizes[group]) > 0.8


@pytest.mark.parametrize("likes, chooses", [(True, False), (False, True)])
def test_groups_come_from_what_tells_users_apart(likes, chooses):
    rng = np.random.default_rng(0)
    users, feature, kind = users_of_two_kinds(rng, likes=likes, chooses=chooses)
    nothing = np.zeros(400)
    rows = TrainingRows(
        nothing.astype(np.int64),
        nothing,
        nothing,
        [feature],
        is_implicit=False,
        chunks=lambda: [users],
    )
    prior = UserGroupsPrior.fit(
        rows,
        PriorsConfig(user_groups=UserGroupsConfig(num_groups=2)),
        fitted={"bias": BiasPrior(bias_of(400, 3.0), ContentModel(3.0), NewItemPrior(1, 1, 1))},
        progress=lambda *_: None,
    )
    group = prior.assign(users.item, users.rating)
    assert max(np.mean(group == kind), np.mean(group != kind)) > 0.9


def test_groups_are_as_difficult_as_the_bias_model_leaves_their_users(store, priors):
    users = store.split("train", CHOICE)
    group = grouping_of(store, priors).estimated(users, is_training=True)
    transform = transform_of(store, priors)
    residuals = []
    for role, prior_mean in zip(
        ("support", "query"), transform.prior_means(users.tasks, is_training=True), strict=True
    ):
        rating = getattr(users.tasks, f"{role}_label")
        owner = np.repeat(np.arange(len(users)), rating.lengths)
        residuals.append((owner, rating.values - prior_mean))
    owner, residual = (np.concatenate(column) for column in zip(*residuals, strict=True))
    # The prior's user offsets are of all of a training user's ratings, not of the support alone.
    assert len(owner) == store.manifest.ratings.count
    squares = np.bincount(owner, residual**2) / np.bincount(owner)
    for number, user_group in enumerate(priors["user_groups"].groups):
        of_group = squares[group == number]
        assert user_group.difficulty == pytest.approx(of_group.mean() / squares.mean(), rel=0.1)
        error = of_group.std(ddof=1) / len(of_group) ** 0.5 / squares.mean()
        assert user_group.difficulty_error == pytest.approx(error, rel=0.2)


def test_difficulties_are_means_by_group_and_say_nothing_of_lone_users():
    rng = np.random.default_rng(0)
    group, mse = rng.integers(0, 3, 200).astype(np.int32), rng.random(200)
    group[:7], group[7] = 0, 4
    groups = difficulties(list("abcde"), group, mse)
    for number in range(3):
        of_group = mse[group == number]
        assert groups[number].name == "abc"[number]
        assert groups[number].size == len(of_group)
        assert groups[number].difficulty == pytest.approx(of_group.mean() / mse.mean())
        error = of_group.std(ddof=1) / len(of_group) ** 0.5 / mse.mean()
        assert groups[number].difficulty_error == pytest.approx(error)
    assert groups[3:] == [UserGroup("d", 0, 1.0, 0.0), UserGroup("e", 1, 1.0, 0.0)]


def test_minority_groups_are_the_smallest_that_hold_at_most_the_share():
    assert minority_groups(np.array([60, 5, 20, 15]), 0.2) == [1, 3]
    assert minority_groups(np.array([60, 5, 20, 15]), 0.19) == [1]
    assert minority_groups(np.array([90, 0, 10]), 0.2) == [2]
    assert minority_groups(np.array([50, 50]), 0.2) == []


def test_groups_are_fitted_to_the_first_users_alone(store, priors):
    rows = store.training_rows()
    chunks = list(rows.chunks())
    options = PriorsConfig(user_groups=UserGroupsConfig(max_users=len(chunks[0]) + 1))
    prior = fit_named(rows, "bias", "user_groups", options=options)["user_groups"]
    assert sum(group.size for group in prior.groups) == len(chunks[0]) + len(chunks[1])


def test_users_are_one_group_where_no_feature_makes_profiles(tmp_path):
    prepare(csv_config(write_log(tmp_path)), tmp_path / "store")
    rows = Store(tmp_path / "store").training_rows()
    prior = fit_named(rows, "bias", "user_groups")["user_groups"]
    users = next(iter(rows.chunks()))
    num_users = sum(len(chunk) for chunk in rows.chunks())
    assert prior.groups == [UserGroup("all", num_users, 1.0, 0.0)]
    assert prior.minority == []
    assert not prior.assign(users.item, users.rating).any()


def test_a_category_without_values_is_refused(tmp_path):
    items = tmp_path / "items.csv"
    items.write_text("i,genre\n" + "".join(f"i{k},\n" for k in range(50)))
    config = csv_config(
        write_log(tmp_path), items_path=str(items), item_features={"genre": "token_list"}
    )
    prepare(config, tmp_path / "store")
    rows = Store(tmp_path / "store").training_rows()
    options = PriorsConfig(user_groups=UserGroupsConfig(category="genre"))
    with pytest.raises(InputError, match="no rated item has a value of it"):
        fit_named(rows, "bias", "user_groups", options=options)


def test_the_oracle_is_between_the_noise_floor_and_the_baselines(store, priors):
    tasks = store.split("user_cold", CHOICE).tasks
    nobody_knows = BayesianMFPrior([])
    baselines = Baselines.of(transform_of(store, priors), nobody_knows)
    error = {
        name: np.sqrt(np.mean((predicted - tasks.query_label.values) ** 2))
        for name, predicted in {
            "oracle": Oracle(store).predict(tasks),
            "bias": baselines.predict(tasks)["bias"],
        }.items()
    }
    floor = store.manifest.notes["noise_floor_rmse"]
    assert floor < error["oracle"] < 0.9 * error["bias"]
