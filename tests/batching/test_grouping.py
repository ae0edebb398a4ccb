"""Training goes by estimated groups, reports by the true ones where there are any."""

from dataclasses import replace

import numpy as np
import pytest
from fitted import fit_named, grouping_of
from stores import CHOICE

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.priors.user_groups import minority_groups
from greatmeta_dist.ragged import join_lists


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("grouping") / "store"
    prepare(DataConfig(users=400, items=150), folder)
    return Store(folder)


@pytest.fixture(scope="module")
def fitted(synthetic):
    return fit_named(synthetic.training_rows(), "bias", "user_groups")


def test_reports_go_by_the_true_groups_of_synthetic_data(synthetic, fitted):
    grouping, users = grouping_of(synthetic, fitted), synthetic.split("train", CHOICE)
    assert grouping.names == ["group_0", "group_1", "group_2", "group_3"]
    assert np.array_equal(grouping.recorded(users), users.known_group)
    sizes = np.bincount(users.known_group, minlength=4)
    assert grouping.minority == minority_groups(sizes, grouping.minority_share)


def test_training_never_goes_by_the_true_groups(synthetic, fitted):
    grouping, users = grouping_of(synthetic, fitted), synthetic.split("train", CHOICE)
    nobody_knows = replace(users, known_group=None)
    estimated = grouping.estimated(users, is_training=True)
    assert np.array_equal(estimated, grouping.estimated(nobody_knows, is_training=True))
    assert estimated.max() >= len(synthetic.manifest.known_groups)  # there are more of them


def test_reports_go_by_estimated_groups_where_nobody_knows_better(synthetic, fitted):
    prior = fitted["user_groups"]
    grouping = replace(grouping_of(synthetic, fitted), known_groups={})
    users = replace(synthetic.split("user_cold", CHOICE), known_group=None)
    assert grouping.names == prior.names
    assert grouping.minority == prior.minority
    assert np.array_equal(grouping.recorded(users), grouping.estimated(users, is_training=False))


def test_query_rows_tell_the_group_of_training_users_only(synthetic, fitted):
    grouping, users = grouping_of(synthetic, fitted), synthetic.split("train", CHOICE)
    tasks = users.tasks
    support_only = fitted["user_groups"].assign(tasks.support_item, tasks.support_label.values)
    whole = fitted["user_groups"].assign(
        join_lists(tasks.support_item, tasks.query_item),
        join_lists(tasks.support_label, tasks.query_label).values,
    )
    assert np.array_equal(grouping.estimated(users, is_training=False), support_only)
    assert np.array_equal(grouping.estimated(users, is_training=True), whole)
    assert not np.array_equal(support_only, whole)
