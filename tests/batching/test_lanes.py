"""Lanes deal every user fairly, in an order anyone can recompute."""

import numpy as np
import pytest
from fitted import collator_of, fit_named, grouping_of, transform_of
from logs import csv_config, write_log
from stores import CHOICE

from greatmeta_dist.batching.lanes import Lane, Lanes
from greatmeta_dist.config import TrainConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store, shard_name
from greatmeta_dist.errors import InputError


def test_shards_are_dealt_evenly(store):
    sizes = [store.shard("train", k).num_rows for k in range(store.manifest.shards["train"])]
    assert len(sizes) == 8
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("num_lanes", [1, 2, 8])
def test_an_epoch_visits_nobody_twice_and_the_left_out_come_first_next(
    store, make_lanes, num_lanes
):
    users_per_batch = 8
    lanes = make_lanes(lanes=num_lanes, users_per_batch=users_per_batch)
    everyone = set(store.split("train", CHOICE).user)
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
                users = store.tasks_of(lane.records(order), CHOICE).user
                mine = [u for u in users if u in left_out]
                assert users[: len(mine)] == mine
        previous = set(seen)


def test_every_user_is_visited_equally_often_in_the_long_run(store):
    lane = Lane(store, 0, 1, seed=0, first_user=0)
    length = len(lane) - 3
    visits = np.zeros(len(lane), int)
    for epoch in range(len(lane)):
        visits[lane.order(epoch, length)] += 1
    assert visits.max() == visits.min()


def test_a_step_is_a_function_of_seed_and_number(make_lanes):
    first = make_lanes(lanes=2, users_per_batch=8)
    ahead = make_lanes(lanes=2, users_per_batch=8)
    other = make_lanes(lanes=2, users_per_batch=8, seed=1)
    for number in range(15):
        last = first.step(number)
    jumped = ahead.step(14)
    assert last.user == jumped.user
    assert all(
        (a.query.label == b.query.label).all()
        for a, b in zip(last.batch.batches, jumped.batch.batches, strict=True)
    )
    assert last.user != other.step(14).user


def test_a_users_index_is_the_same_whoever_hosts_it(make_lanes):
    def indices(*all_lanes: Lanes) -> dict[str, int]:
        by_user: dict[str, int] = {}
        for lanes in all_lanes:
            for number in range(2 * lanes.steps_per_epoch):
                step = lanes.step(number)
                index = np.concatenate([bucket.user_index.numpy() for bucket in step.batch.batches])
                assert all(i in lanes.user_range for i in index)
                for user, of_user in zip(step.user, index.tolist(), strict=True):
                    assert by_user.setdefault(user, of_user) == of_user
        return by_user

    options = {"lanes": 4, "users_per_batch": 8}
    whole = make_lanes(**options)
    halves = [make_lanes(**options, rank=rank, world_size=2) for rank in range(2)]
    by_user = indices(whole)
    assert sorted(by_user.values()) == list(whole.user_range)
    assert indices(*halves) == by_user
    assert [*halves[0].user_range, *halves[1].user_range] == list(whole.user_range)


def test_a_lane_reads_only_its_own_shards(store, make_lanes):
    lanes = make_lanes(lanes=4, users_per_batch=8)
    for lane in lanes.lanes:
        users = {u for s in (lane.number, lane.number + 4) for u in
                 store.tasks_of(store.shard("train", s), CHOICE).user}  # fmt: skip
        assert set(store.tasks_of(lane.records(np.arange(len(lane))), CHOICE).user) == users


def test_reading_keeps_the_order_asked_for(store):
    lane = Lane(store, 0, 1, seed=0, first_user=0)
    users = np.array([70, 3, 41, 3, 12])
    alone = [store.tasks_of(lane.records(np.array([u])), CHOICE) for u in users]
    together = store.tasks_of(lane.records(users), CHOICE)
    assert together.user == [p.user[0] for p in alone]
    items = np.concatenate([p.tasks.support_item.values for p in alone])
    assert (together.tasks.support_item.values == items).all()


def test_short_visits_keep_the_query_and_some_of_the_support(make_lanes):
    whole = make_lanes(lanes=1, users_per_batch=60).step(0)
    short = make_lanes(lanes=1, users_per_batch=60, short_support_rate=0.5).step(0)
    assert sorted(whole.user) == sorted(short.user)
    before = dict(zip(whole.user, whole.num_support.tolist(), strict=True))
    after = dict(zip(short.user, short.num_support.tolist(), strict=True))
    shorter = [u for u in before if after[u] < before[u]]
    assert all(1 <= after[u] <= before[u] for u in before)
    assert 15 <= len(shorter) <= 45
    rows = [
        sum(int((p.query.row_weight > 0).sum()) for p in step.batch.batches)
        for step in (whole, short)
    ]
    assert rows[0] == rows[1]


def test_a_worker_checks_the_shards_of_its_own_lanes_only(tmp_path):
    prepare(csv_config(write_log(tmp_path, num_users=100)), tmp_path / "store")
    priors = fit_named(Store(tmp_path / "store").training_rows(), "bias", "user_groups")
    shard = tmp_path / "store" / shard_name("train", 3)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    config = TrainConfig(lanes=4, users_per_batch=8)

    def lanes_of(rank: int) -> Lanes:
        # Each worker opens the store anew; priors are those of the store before it was damaged.
        opened = Store(tmp_path / "store")
        collator = collator_of(opened, transform_of(opened, priors))
        grouping = grouping_of(opened, priors)
        return Lanes(opened, collator, CHOICE, grouping, config, rank=rank, world_size=2)

    assert lanes_of(0).step(0).batch.batches
    with pytest.raises(InputError, match="does not match its checksum"):
        lanes_of(1)
