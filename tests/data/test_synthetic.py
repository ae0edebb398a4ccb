"""The synthetic log has the groups and the noise floor that it says."""

import numpy as np
from fitted import fit_named, grouping_of
from stores import CHOICE

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store


def test_synthetic_groups_are_the_true_ones_and_the_noise_floor_is_known(tmp_path):
    prepare(DataConfig(source="synthetic", users=600, items=200), tmp_path / "store")
    store = Store(tmp_path / "store")
    assert list(store.manifest.known_groups) == ["group_0", "group_1", "group_2", "group_3"]
    assert 0.4 < store.manifest.notes["noise_floor_rmse"] < 0.75
    group = store.split("train", CHOICE).known_group
    assert np.bincount(group).tolist() == list(store.manifest.known_groups.values())
    shares = np.bincount(group, minlength=4) / len(group)
    np.testing.assert_allclose(shares, [0.70, 0.20, 0.07, 0.03], atol=0.06)
    priors = fit_named(store.training_rows(), "bias", "user_groups")
    minority = grouping_of(store, priors).minority
    assert sum(shares[minority]) <= 0.2
    assert 3 in minority
