"""Preference groups are found in what users choose and like, and balanced as asked."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.oracle import Oracle
from greatmeta_dist.baselines import Baselines
from greatmeta_dist.config import DataConfig
from greatmeta_dist.tasks.batch import Ragged, offsets_of
from greatmeta_dist.tasks.groups import Categories, FittedGroups, History, Profiler
from greatmeta_dist.tasks.lanes import even_balance
from greatmeta_dist.tasks.prepare import prepare
from greatmeta_dist.tasks.store import FieldChoice, Store

CHOICE = FieldChoice(has_item_id=True, is_list_mean=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("groups") / "store"
    prepare(DataConfig(users=1500, mean_interactions=60.0), folder)
    return Store(folder)


def test_clusters_of_the_log_tell_the_small_true_groups(store):
    part = store.part("train", CHOICE)
    sizes = np.array(store.manifest.cluster_sizes)
    assert sizes.sum() == len(part)
    assert (np.bincount(part.cluster, minlength=len(sizes)) == sizes).all()
    is_minority = np.isin(part.group, store.manifest.minority)
    assert roc_auc_score(is_minority, -sizes[part.cluster]) > 0.8


def histories(rng, *, likes: bool, chooses: bool) -> tuple[Profiler, History, np.ndarray]:
    """200 users of two kinds, who rate 30 items of four categories."""
    kind = np.arange(200) % 2
    category = rng.integers(0, 4, 400)
    categories = Categories(list("abcd"), Ragged(category, np.arange(401)))
    items = []
    for k in kind:
        wanted = np.where(category == k, 8.0 if chooses else 1.0, 1.0)
        items.append(rng.choice(400, 30, replace=False, p=wanted / wanted.sum()))
    item = np.concatenate(items)
    owner = np.repeat(np.arange(200), 30)
    rating = 3 + rng.normal(size=len(item))
    if likes:
        rating += np.where(category[item] == kind[owner], 1.5, 0.0)
    history = History(Ragged(item, offsets_of(np.full(200, 30))), rating)
    return Profiler(categories, np.full(400, 3.0)), history, kind


@pytest.mark.parametrize("likes, chooses", [(True, False), (False, True)])
def test_groups_come_from_what_tells_users_apart(likes, chooses):
    rng = np.random.default_rng(0)
    profiler, history, kind = histories(rng, likes=likes, chooses=chooses)
    groups = FittedGroups(profiler, history, num_groups=2, seed=0)
    found = groups.of(history, None)
    assert max(np.mean(found == kind), np.mean(found != kind)) > 0.9


@pytest.mark.parametrize("evenness, expected", [(0.0, [1, 1, 1]), (1.0, [1 / 3] * 3)])
def test_balance_is_one_on_average_and_evens_out_groups(evenness, expected):
    sizes = [70, 20, 10]
    balance = even_balance(sizes, evenness)
    assert np.dot(balance, sizes) / 100 == pytest.approx(1.0)
    counted = balance * np.array(sizes) / 100 if evenness else balance
    assert counted == pytest.approx(expected)
    half = even_balance(sizes, 0.5)
    assert half[2] / half[0] == pytest.approx(7**0.5)


def test_the_oracle_is_between_the_noise_floor_and_the_baselines(store):
    tasks = store.part("user_cold", CHOICE).tasks
    error = {
        name: np.sqrt(np.mean((predicted - tasks.query_label.values) ** 2))
        for name, predicted in {
            "oracle": Oracle(store).predict(tasks),
            "bias": Baselines.of(store).predict(tasks)["bias"],
        }.items()
    }
    floor = store.manifest.notes["noise_floor_rmse"]
    assert floor < error["oracle"] < 0.9 * error["bias"]
