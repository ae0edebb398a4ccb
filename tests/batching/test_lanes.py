"""Lanes deal every user fairly, in an order anyone can recompute."""

from dataclasses import replace

import numpy as np
import pytest
from logs import csv_config, write_log

from greatmeta_dist.batching.collate import Collator
from greatmeta_dist.batching.lanes import (
    PART_COST_ROWS,
    Lane,
    Lanes,
    default_lanes,
    length_parts,
    read_part,
)
from greatmeta_dist.batching.loader import Loader
from greatmeta_dist.batching.target_transform import TargetTransform
from greatmeta_dist.config import TrainConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import FeatureSpec, Store, shard_name
from greatmeta_dist.errors import InputError
from greatmeta_dist.evaluation.baselines import ITEM_DAMPING, USER_DAMPING, Baselines

CHOICE = FeatureSpec(has_item_id=True, list_pooling="mean")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("lanes")
    prepare(csv_config(write_log(folder, num_users=100)), folder / "store")
    return Store(folder / "store")


def make_lanes(
    store: Store,
    *,
    num_lanes: int,
    users_per_batch: int,
    seed: int = 0,
    short_support_rate: float = 0.0,
) -> Lanes:
    collator = Collator(
        store.item_features(CHOICE),
        True,
        True,
        TargetTransform.of(store, "standardised"),
        support_damping=0.0,
    )
    config = TrainConfig(
        lanes=num_lanes,
        users_per_batch=users_per_batch,
        seed=seed,
        short_support_rate=short_support_rate,
    )
    return Lanes.of(store, collator, CHOICE, config)


def test_shards_are_dealt_evenly(store):
    sizes = [store.shard("train", k).num_rows for k in range(store.manifest.shards["train"])]
    assert len(sizes) == 8
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("num_lanes", [1, 2, 8])
def test_an_epoch_visits_nobody_twice_and_the_left_out_come_first_next(store, num_lanes):
    users_per_batch = 8
    lanes = make_lanes(store, num_lanes=num_lanes, users_per_batch=users_per_batch)
    everyone = set(store.part("train", CHOICE).user)
    previous: set[str] = set()
    for epoch in range(4):
        steps = [
            lanes.step(epoch * lanes.steps_per_epoch + k) for k in range(lanes.steps_per_epoch)
        ]
        seen = [u for step in steps for u in step.user]
        assert len(seen) == len(set(seen)) == lanes.steps_per_epoch * users_per_batch
        if epoch:
            left_out = everyone - previous
            assert left_out <= set(seen)
            for lane in lanes.lanes:
                order = lane.order(epoch, lanes.steps_per_epoch * lanes.users_per_lane)
                users = lane.read(order, store, CHOICE).user
                mine = [u for u in users if u in left_out]
                assert users[: len(mine)] == mine
        previous = set(seen)


def test_every_user_is_visited_equally_often_in_the_long_run(store):
    lane = Lane(store, 0, 1, seed=0, first=0)
    length = len(lane) - 3
    visits = np.zeros(len(lane), int)
    for epoch in range(len(lane)):
        visits[lane.order(epoch, length)] += 1
    assert visits.max() == visits.min()


def test_a_step_is_a_function_of_seed_and_number(store):
    first = make_lanes(store, num_lanes=2, users_per_batch=8)
    ahead = make_lanes(store, num_lanes=2, users_per_batch=8)
    other = make_lanes(store, num_lanes=2, users_per_batch=8, seed=1)
    for number in range(15):
        last = first.step(number)
    jumped = ahead.step(14)
    assert last.user == jumped.user
    assert all(
        (a.query.label == b.query.label).all()
        for a, b in zip(last.batch.buckets, jumped.batch.buckets, strict=True)
    )
    assert last.user != other.step(14).user


def test_a_users_place_is_its_own_whoever_hosts_it(store):
    def places(*all_lanes: Lanes) -> dict[str, int]:
        found: dict[str, int] = {}
        for lanes in all_lanes:
            for number in range(2 * lanes.steps_per_epoch):
                step = lanes.step(number)
                place = np.concatenate([part.user_index.numpy() for part in step.batch.buckets])
                assert all(p in lanes.places for p in place)
                for user, own in zip(step.user, place.tolist(), strict=True):
                    assert found.setdefault(user, own) == own
        return found

    config = TrainConfig(lanes=4, users_per_batch=8)
    collator = Collator(
        store.item_features(CHOICE), True, True, TargetTransform.of(store, "bias"), 0.0
    )
    whole = Lanes.of(store, collator, CHOICE, config)
    halves = [Lanes.of(store, collator, CHOICE, config, rank=rank, size=2) for rank in range(2)]
    found = places(whole)
    assert sorted(found.values()) == list(whole.places)
    assert places(*halves) == found
    assert [*halves[0].places, *halves[1].places] == list(whole.places)


def test_a_lane_reads_only_its_own_shards(store):
    lanes = make_lanes(store, num_lanes=4, users_per_batch=8)
    for lane in lanes.lanes:
        users = {u for s in (lane.number, lane.number + 4) for u in
                 store.tasks_of(store.shard("train", s), CHOICE).user}  # fmt: skip
        assert set(lane.read(np.arange(len(lane)), store, CHOICE).user) == users


def test_reading_keeps_the_order_asked_for(store):
    lane = Lane(store, 0, 1, seed=0, first=0)
    users = np.array([70, 3, 41, 3, 12])
    alone = [lane.read(np.array([u]), store, CHOICE) for u in users]
    together = lane.read(users, store, CHOICE)
    assert together.user == [p.user[0] for p in alone]
    items = np.concatenate([p.tasks.support_item.values for p in alone])
    assert (together.tasks.support_item.values == items).all()


def test_reading_a_part_gives_every_task_once(store):
    parts = list(read_part(store, "user_cold", CHOICE, users_per_batch=3))
    users = [u for p in parts for u in p.user]
    assert sorted(users) == sorted(store.part("user_cold", CHOICE).user)


def test_of_a_large_part_some_of_every_shard_are_read(store):
    some = list(read_part(store, "train", CHOICE, users_per_batch=3, most=16))
    users = [u for p in some for u in p.user]
    num_shards = store.manifest.shards["train"]
    shards = [store.tasks_of(store.shard("train", s), CHOICE).user for s in range(num_shards)]
    assert 16 <= len(set(users)) == len(users) <= 16 + num_shards
    assert all(set(users) & set(of_shard) for of_shard in shards)
    by_two = [
        u
        for rank in range(2)
        for p in read_part(store, "train", CHOICE, users_per_batch=3, most=16, rank=rank, size=2)
        for u in (p.user if p else [])
    ]
    assert sorted(by_two) == sorted(users)


def test_impossible_batches_say_what_to_change(store):
    with pytest.raises(InputError, match=r"change train.lanes or train.users_per_batch"):
        make_lanes(store, num_lanes=4, users_per_batch=10)
    with pytest.raises(InputError, match="lower it to"):
        make_lanes(store, num_lanes=1, users_per_batch=500)


def test_lanes_follow_from_the_store_alone():
    assert default_lanes(349, 8) == 1
    assert default_lanes(50_000, 8) == 8
    assert default_lanes(10**7, 128) == 128
    assert default_lanes(20_000, 8) == 4


@pytest.mark.parametrize("kind", ["rating", "standardised", "bias"])
def test_labels_round_trip_within_the_range(store, kind):
    chosen = TargetTransform.of(store, kind)
    tasks = store.part("user_cold", CHOICE).tasks
    _, expected = chosen.expected(tasks, is_training=False)
    label = (tasks.query_label.values - expected) / chosen.scale
    assert chosen.to_rating(tasks)(label) == pytest.approx(tasks.query_label.values, abs=1e-5)
    ends = chosen.to_rating(tasks)(np.full(len(label), 1e3))
    assert (ends == store.manifest.ratings.highest).all()


@pytest.mark.parametrize("item_damping, user_damping", [(5.0, 3.0), (2.5, 8.0)])
def test_a_bias_label_takes_off_mean_item_and_user_offset(store, item_damping, user_damping):
    tasks = store.part("user_cold", CHOICE).tasks
    mean = store.manifest.ratings.mean
    count, total = store.item_statistics()
    offset = (total - mean * count) / (count + item_damping)
    expected = []
    for user in range(len(tasks)):
        rows = slice(*tasks.support_item.offsets[user : user + 2])
        item, rating = tasks.support_item.values[rows], tasks.support_label.values[rows]
        rest = sum(r - mean - offset[i] for i, r in zip(item, rating, strict=True))
        own = rest / (len(item) + user_damping)
        query = tasks.query_item.values[slice(*tasks.query_item.offsets[user : user + 2])]
        expected += [mean + offset[i] + own for i in query]
    labels = replace(
        TargetTransform.of(store, "bias"), item_damping=item_damping, user_damping=user_damping
    )
    _, found = labels.expected(tasks, is_training=False)
    assert found == pytest.approx(np.array(expected))
    if (item_damping, user_damping) != (ITEM_DAMPING, USER_DAMPING):
        return
    low, high = store.manifest.ratings.lowest, store.manifest.ratings.highest
    assert Baselines.of(store).predict(tasks)["bias"] == pytest.approx(np.clip(expected, low, high))


def test_a_training_users_own_rating_is_not_in_its_items_mean(store):
    tasks = store.part("train", CHOICE).tasks
    item, rating = tasks.query_item.values[:1], tasks.query_label.values[:1].astype(float)
    with_it = TargetTransform.of(store, "bias")
    count, total = (a.copy() for a in (with_it.item_count, with_it.item_sum))
    count[item] -= 1
    total[item] -= rating
    without = replace(with_it, item_count=count, item_sum=total)
    assert with_it.item_mean(item, own=rating) == pytest.approx(without.item_mean(item, own=None))


def test_short_visits_keep_the_query_and_a_part_of_the_support(store):
    whole = make_lanes(store, num_lanes=1, users_per_batch=60).step(0)
    short = make_lanes(store, num_lanes=1, users_per_batch=60, short_support_rate=0.5).step(0)
    assert sorted(whole.user) == sorted(short.user)
    before = dict(zip(whole.user, whole.num_support.tolist(), strict=True))
    after = dict(zip(short.user, short.num_support.tolist(), strict=True))
    shorter = [u for u in before if after[u] < before[u]]
    assert all(1 <= after[u] <= before[u] for u in before)
    assert 15 <= len(shorter) <= 45
    rows = [
        sum(int((p.query.row_weight > 0).sum()) for p in step.batch.buckets)
        for step in (whole, short)
    ]
    assert rows[0] == rows[1]


def padded(lengths, parts) -> int:
    return sum((p.stop - p.start) * int(lengths[p].max()) for p in parts)


@pytest.mark.parametrize("seed", range(4))
def test_parts_cover_every_user_once_and_save_padding(seed):
    lengths = np.sort(np.random.default_rng(seed).geometric(0.01, 64))
    parts = length_parts(lengths)
    assert [p.start for p in parts[1:]] == [p.stop for p in parts[:-1]]
    assert (parts[0].start, parts[-1].stop) == (0, 64)
    saved = 64 * int(lengths.max()) - padded(lengths, parts)
    assert saved > (len(parts) - 1) * PART_COST_ROWS


def test_equal_or_short_users_stay_in_one_part():
    assert length_parts(np.full(500, 90)) == [slice(0, 500)]
    assert length_parts(np.array([1, 3, 10])) == [slice(0, 3)]


@pytest.mark.parametrize("is_ahead", [False, True])
def test_the_loader_gives_the_steps_in_order(store, is_ahead):
    lanes, own = (make_lanes(store, num_lanes=2, users_per_batch=8) for _ in range(2))
    with Loader(own, range(3, 9), is_ahead=is_ahead) as loader:
        assert [step.user for step in loader] == [lanes.step(k).user for k in range(3, 9)]


@pytest.mark.parametrize("is_ahead", [False, True])
def test_the_loader_can_be_left_early_and_passes_errors_on(store, monkeypatch, is_ahead):
    lanes = make_lanes(store, num_lanes=1, users_per_batch=8)
    with Loader(lanes, range(10**6), is_ahead=True) as loader:
        next(iter(loader))

    def gone(number):
        raise OSError(f"step {number} is gone")

    monkeypatch.setattr(lanes, "step", gone)
    with (
        Loader(lanes, range(3), is_ahead=is_ahead) as loader,
        pytest.raises(OSError, match="step 0 is gone"),
    ):
        next(iter(loader))


def test_a_worker_checks_the_shards_of_its_own_lanes_only(tmp_path):
    prepare(csv_config(write_log(tmp_path, num_users=100)), tmp_path / "store")
    shard = tmp_path / "store" / shard_name("train", 3)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    config = TrainConfig(lanes=4, users_per_batch=8)

    def lanes_of(rank: int) -> Lanes:
        found = Store(tmp_path / "store")
        features = found.item_features(CHOICE)
        collator = Collator(features, True, True, TargetTransform.of(found, "bias"), 0.0)
        return Lanes.of(found, collator, CHOICE, config, rank=rank, size=2)

    assert lanes_of(0).step(0).batch.buckets
    with pytest.raises(InputError, match="does not match its checksum"):
        lanes_of(1)
