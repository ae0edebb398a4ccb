"""Clicks, from ratings or from logs of clicks alone: what is refused, and chances."""

import numpy as np
import pytest
from fitted import fit_named, transform_of
from logs import csv_config, write_log
from stores import CHOICE

from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import InputError


@pytest.mark.parametrize("click_at, share", [(0.5, "100%"), (6.0, "0%")])
def test_clicks_of_one_kind_are_refused(tmp_path, click_at, share):
    config = csv_config(write_log(tmp_path), label="click", click_at=click_at)
    with pytest.raises(InputError, match=f"{share} of the training rows are clicks"):
        prepare(config, tmp_path / "store")


def test_users_who_have_every_item_leave_none_to_draw(tmp_path):
    lines = [f"u{user},i{item},3" for user in range(30) for item in range(5)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,rating", *lines]))
    config = DataConfig(source="csv", path=str(tmp_path / "log.csv"), label="click", click_at=None)
    with pytest.raises(InputError, match="no item could be drawn as not clicked"):
        prepare(config, tmp_path / "store")


def test_no_rating_column_needs_clicks_or_counts():
    columns = ColumnsConfig("u", "i", None)
    with pytest.raises(InputError, match=r"data.columns.rating is null, and data.label is rating"):
        DataConfig(source="csv", path="x", columns=columns, repeats="latest")
    assert DataConfig(source="csv", path="x", columns=columns).repeats_rule == "count"


def test_chances_are_prior_means_where_the_model_adds_nothing(tmp_path):
    prepare(csv_config(write_log(tmp_path), label="click"), tmp_path / "store")
    store = Store(tmp_path / "store")
    tasks = store.split("user_cold", CHOICE).tasks
    transform = transform_of(store, fit_named(store.training_rows(), "bias"))
    _, prior_mean = transform.prior_means(tasks, is_training=False)
    chance = transform.to_rating(tasks)(np.zeros(len(prior_mean)))
    assert chance == pytest.approx(np.clip(prior_mean, 0.02, 0.98))
    assert (transform.to_rating(tasks)(np.ones(len(prior_mean))) > chance).all()
