"""Preference groups are found in what users choose and like, and balanced as asked."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.oracle import Oracle
from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Cluster, FeatureSpec, Store
from greatmeta_dist.evaluation.baselines import Baselines
from greatmeta_dist.priors.user_groups import (
    Categories,
    ClusterTally,
    FittedGroups,
    History,
    Profiler,
)
from greatmeta_dist.ragged import Ragged, offsets_of

CHOICE = FeatureSpec(has_item_id=True, list_pooling="mean")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("groups") / "store"
    prepare(DataConfig(users=1500, mean_interactions=60.0), folder)
    return Store(folder)


def test_clusters_of_the_log_tell_the_small_true_groups(store):
    part = store.part("train", CHOICE)
    sizes = np.array([c.size for c in store.manifest.clusters])
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


def test_nobody_chose_what_was_drawn():
    categories = Categories(["a", "b"], Ragged(np.array([0, 0, 1, 1]), np.arange(5)))
    history = History(Ragged(np.arange(4), np.array([0, 4])), np.array([1.0, 1.0, 1.0, 0.0]))
    for is_implicit, share in ((False, 1 / 2), (True, 1 / 3)):
        shares, taste = Profiler(categories, np.full(4, 0.5), is_implicit).blocks(history)
        assert shares[0].tolist() == pytest.approx([1 - share, share])
        assert taste[0, 0] > 0 > taste[0, 1]


@pytest.mark.parametrize("likes, chooses", [(True, False), (False, True)])
def test_groups_come_from_what_tells_users_apart(likes, chooses):
    rng = np.random.default_rng(0)
    profiler, history, kind = histories(rng, likes=likes, chooses=chooses)
    groups = FittedGroups(profiler, history, num_groups=2, seed=0)
    found = groups.of(history, None)
    assert max(np.mean(found == kind), np.mean(found != kind)) > 0.9


def test_clusters_are_as_difficult_as_what_is_left_of_their_users(store):
    part = store.part("train", CHOICE)
    labels = TargetTransform.of(store, "bias")
    left = []
    for role, expected in zip(
        ("support", "query"), labels.expected(part.tasks, is_training=True), strict=True
    ):
        rating = getattr(part.tasks, f"{role}_label")
        owner = np.repeat(np.arange(len(part)), rating.lengths)
        left.append((owner, rating.values - expected))
    owner, rest = (np.concatenate(column) for column in zip(*left, strict=True))
    # A store's user offsets are of all of a training user's ratings, not of the support alone.
    assert len(owner) == store.manifest.ratings.count
    squares = np.bincount(owner, rest**2) / np.bincount(owner)
    for number, cluster in enumerate(store.manifest.clusters):
        found = squares[part.cluster == number]
        assert cluster.difficulty == pytest.approx(found.mean() / squares.mean(), rel=0.1)
        error = found.std(ddof=1) / len(found) ** 0.5 / squares.mean()
        assert cluster.difficulty_error == pytest.approx(error, rel=0.2)


def test_tally_is_of_all_portions_and_says_nothing_of_lone_users():
    rng = np.random.default_rng(0)
    cluster, left = rng.integers(0, 3, 200).astype(np.int32), rng.random(200)
    cluster[:7], cluster[7] = 0, 4
    tally = ClusterTally(5)
    for chosen in (slice(0, 90), slice(90, 90), slice(90, 200)):
        tally.add(cluster[chosen], left[chosen])
    found = tally.clusters()
    for number in range(3):
        own = left[cluster == number]
        assert found[number].size == len(own)
        assert found[number].difficulty == pytest.approx(own.mean() / left.mean())
        error = own.std(ddof=1) / len(own) ** 0.5 / left.mean()
        assert found[number].difficulty_error == pytest.approx(error)
    assert found[3:] == [Cluster(0, 1.0, 0.0), Cluster(1, 1.0, 0.0)]


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
