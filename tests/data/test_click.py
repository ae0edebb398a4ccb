"""Clicks, from ratings or from logs of clicks alone: what is refused, and chances."""

import numpy as np
import pytest
from logs import csv_config, write_log
from stores import CHOICE

from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import InputError


@pytest.mark.parametrize("click_at, share", [(0.5, "100%"), (6.0, "0%")])
def test_clicks_of_one_kind_are_refused(tmp_path, click_at, share):
    config = csv_config(write_log(tmp_path), label="click", click_at=click_at)
    with pytest.raises(InputError, match=f"{share} of the training rows are clicks"):
        prepare(config, tmp_path / "store")


def test_no_rating_column_needs_clicks():
    with pytest.raises(InputError, match=r"data.columns.rating is null, and data.label is rating"):
        DataConfig(source="csv", path="x", columns=ColumnsConfig("u", "i", None))


def test_chances_are_expected_ones_where_the_model_adds_nothing(tmp_path):
    prepare(csv_config(write_log(tmp_path), label="click"), tmp_path / "store")
    store = Store(tmp_path / "store")
    tasks = store.split("user_cold", CHOICE).tasks
    labels = TargetTransform.of(store, "bias")
    _, expected = labels.expected(tasks, is_training=False)
    found = labels.to_rating(tasks)(np.zeros(len(expected)))
    assert found == pytest.approx(np.clip(expected, 0.02, 0.98))
    assert (labels.to_rating(tasks)(np.ones(len(expected))) > found).all()
