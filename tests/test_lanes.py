"""Lanes deal every user fairly, in an order anyone can recompute."""

import numpy as np
import pytest
from logs import csv_config, write_log

from greatmeta_dist.config import InputError
from greatmeta_dist.tasks.lanes import BatchMaker, Lane, Lanes, default_lanes, read_part
from greatmeta_dist.tasks.prepare import prepare
from greatmeta_dist.tasks.store import FieldChoice, Store

CHOICE = FieldChoice(has_item_id=True, is_list_mean=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("lanes")
    prepare(csv_config(write_log(folder, num_users=100)), folder / "store")
    return Store(folder / "store")


def make_lanes(store: Store, *, num_lanes: int, users_per_step: int, seed: int = 0) -> Lanes:
    maker = BatchMaker(store.item_features(CHOICE), True, store.manifest.ratings, True)
    return Lanes(
        store,
        maker,
        CHOICE,
        num_lanes=num_lanes,
        users_per_step=users_per_step,
        seed=seed,
        is_resplit=True,
        hidden_share=0.2,
    )


def test_shards_are_dealt_evenly(store):
    sizes = [store.shard("train", k).num_rows for k in range(store.manifest.shards["train"])]
    assert len(sizes) == 8
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("num_lanes", [1, 2, 8])
def test_an_epoch_visits_nobody_twice_and_the_left_out_come_first_next(store, num_lanes):
    users_per_step = 8
    lanes = make_lanes(store, num_lanes=num_lanes, users_per_step=users_per_step)
    everyone = set(store.part("train", CHOICE).user)
    previous: set[str] = set()
    for epoch in range(4):
        steps = [
            lanes.step(epoch * lanes.steps_per_epoch + k) for k in range(lanes.steps_per_epoch)
        ]
        seen = [u for step in steps for lane in step for u in lane.user]
        assert len(seen) == len(set(seen)) == lanes.steps_per_epoch * users_per_step
        if epoch:
            left_out = everyone - previous
            assert left_out <= set(seen)
            per_lane = [
                [u for step in steps for u in step[k].user] for k in range(len(lanes.lanes))
            ]
            for order in per_lane:
                mine = [u for u in order if u in left_out]
                assert order[: len(mine)] == mine
        previous = set(seen)


def test_every_user_is_visited_equally_often_in_the_long_run(store):
    lane = Lane(store, 0, 1, seed=0)
    length = len(lane) - 3
    visits = np.zeros(len(lane), int)
    for epoch in range(len(lane)):
        visits[lane.order(epoch, length)] += 1
    assert visits.max() == visits.min()


def test_a_step_is_a_function_of_seed_and_number(store):
    first = make_lanes(store, num_lanes=2, users_per_step=8)
    ahead = make_lanes(store, num_lanes=2, users_per_step=8)
    other = make_lanes(store, num_lanes=2, users_per_step=8, seed=1)
    for number in range(15):
        last = first.step(number)
    jumped = ahead.step(14)
    assert [x.user for x in last] == [x.user for x in jumped]
    assert all(
        (a.batch.query.label == b.batch.query.label).all()
        for a, b in zip(last, jumped, strict=True)
    )
    assert [x.user for x in last] != [x.user for x in other.step(14)]


def test_a_lane_reads_only_its_own_shards(store):
    lanes = make_lanes(store, num_lanes=4, users_per_step=8)
    for lane in lanes.lanes:
        users = {u for s in (lane.number, lane.number + 4) for u in
                 store.tasks_of(store.shard("train", s), CHOICE).user}  # fmt: skip
        assert set(lane.read(np.arange(len(lane)), store, CHOICE).user) == users


def test_reading_keeps_the_order_asked_for(store):
    lane = Lane(store, 0, 1, seed=0)
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


def test_impossible_batches_say_what_to_change(store):
    with pytest.raises(InputError, match=r"change train.lanes or train.users_per_step"):
        make_lanes(store, num_lanes=4, users_per_step=10)
    with pytest.raises(InputError, match="lower it to"):
        make_lanes(store, num_lanes=1, users_per_step=500)


def test_lanes_follow_from_the_store_alone():
    assert default_lanes(349, 8) == 1
    assert default_lanes(50_000, 8) == 8
    assert default_lanes(10**7, 128) == 128
    assert default_lanes(20_000, 8) == 4


def test_labels_round_trip_within_the_range(store):
    maker = BatchMaker(store.item_features(CHOICE), True, store.manifest.ratings, True)
    ratings = np.array([1.0, 3.0, 5.0], np.float32)
    assert maker.to_rating(maker.to_label(ratings)) == pytest.approx(ratings, abs=1e-5)
    assert maker.to_rating(np.array([1e3, -1e3])).tolist() == [5.0, 1.0]
