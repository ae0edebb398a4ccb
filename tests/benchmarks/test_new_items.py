"""Who is asked about which new items, and which of their ratings are known."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from small_training import prepare_store
from stores import CHOICE

from benchmarks.new_items.__main__ import differences, table
from benchmarks.new_items.models import CONTENT, SHIPPED
from benchmarks.new_items.protocol import MOST_KNOWN, Draw, Log
from greatmeta_dist.data.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return prepare_store(tmp_path_factory.mktemp("new items"))


@pytest.fixture(scope="module")
def log(store) -> tuple[Log, list[str]]:
    frame = pl.read_csv(store.parent / "log.csv")
    users = frame["u"].unique().sort().to_list()
    items = Store(store).item_tokens()
    user, item = (
        np.array([names.index(name) for name in frame[column]])
        for column, names in (("u", users), ("i", items))
    )
    return Log(user, item, frame["r"].to_numpy().astype(np.float64)), users


def pairs(user, item) -> set[tuple[int, int]]:
    return set(zip(user.tolist(), item.tolist(), strict=True))


def test_the_same_rows_are_asked_however_many_ratings_are_known(store, log):
    draw = Draw.of(Store(store), CHOICE, *log, seed=1)
    tasks = draw.tasks
    user = np.repeat(np.arange(len(tasks)), tasks.query_item.lengths)
    asked = pairs(user, tasks.query_item.values)
    assert asked
    for num_known in (0, 5, 20):
        known = draw.first(num_known)
        assert (np.unique(known.item, return_counts=True)[1] == num_known).all()
        assert not pairs(known.user, known.item) & asked
        knowing = draw.tasks_knowing(num_known)
        assert np.array_equal(knowing.query_item.values, tasks.query_item.values)
        assert len(knowing.support_item.values) == len(tasks.support_item.values) + len(known.user)
        owner = np.repeat(np.arange(len(knowing)), knowing.support_item.lengths)
        assert pairs(known.user, known.item) <= pairs(owner, knowing.support_item.values)
    assert pairs(draw.first(5).user, draw.first(5).item) < pairs(known.user, known.item)


def test_new_items_of_few_ratings_are_left_out_and_all_other_rows_of_new_items_are_in(store, log):
    prepared = Store(store)
    draw = Draw.of(prepared, CHOICE, *log, seed=1)
    is_new = prepared.training_rows().item_count == 0
    names = [u for s in ("item_cold", "both_cold") for u in prepared.split(s, CHOICE).user]
    of_users = np.isin(np.array(log[1])[log[0].user], names)
    rated = log[0].item[of_users & is_new[log[0].item]]
    count = np.bincount(rated, minlength=len(is_new))
    enough = count > MOST_KNOWN
    assert set(draw.known.item) == set(np.flatnonzero(enough))
    assert len(draw.tasks.query_item.values) == count[enough].sum() - MOST_KNOWN * enough.sum()


def test_another_seed_is_another_draw_and_the_same_seed_the_same(store, log):
    first, same, other = (Draw.of(Store(store), CHOICE, *log, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first.known.user, same.known.user)
    assert not np.array_equal(first.known.user, other.known.user)


def test_tables_have_means_intervals_and_gains():
    def scores(content, shipped):
        return {
            "5": {
                CONTENT: {"rmse": content, "ndcg@5": 0.8},
                SHIPPED: {"rmse": shipped, "ndcg@5": 0.85},
            }
        }

    draws = [scores(1.0, 0.95), scores(1.0, 0.93)]
    assert f"| 5 | {SHIPPED} | 0.9400 ±0.1271 | 0.8500 ±0.0000 | 6.0% |" in table(draws, [5])
    assert f"| 5 | {CONTENT} | +0.0600 ±0.1271 | -0.0500 ±0.0000 |" in differences(draws, [5])
