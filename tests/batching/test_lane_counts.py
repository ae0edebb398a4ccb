"""The number of lanes follows from the store, and impossible ones are refused."""

import pytest

from greatmeta_dist.batching.lane_counts import (
    checked_lane_sizes,
    default_lanes,
    group_lanes,
    lane_sizes,
)
from greatmeta_dist.errors import InputError


def test_impossible_batches_say_what_to_change(make_lanes):
    with pytest.raises(InputError, match=r"change train.lanes or train.users_per_batch"):
        make_lanes(lanes=4, users_per_batch=10)
    with pytest.raises(InputError, match="lower it to"):
        make_lanes(lanes=1, users_per_batch=500)


def test_lanes_follow_from_the_store_alone():
    assert default_lanes(349, 8) == 1
    assert default_lanes(50_000, 8) == 8
    assert default_lanes(10**7, 128) == 128
    assert default_lanes(20_000, 8) == 4


def test_lanes_share_out_all_training_users(store):
    for num_lanes in (1, 2, 8):
        sizes = lane_sizes(store, num_lanes)
        assert len(sizes) == num_lanes
        assert sum(sizes) == store.manifest.splits["train"]
        assert checked_lane_sizes(store, num_lanes, 8, num_workers=1) == sizes


def test_a_group_has_a_lane_for_each_worker_and_the_same_ones_up_to_eight(store):
    assert {group_lanes(store, 16, num_workers) for num_workers in (1, 2, 4, 8)} == {8}
    assert group_lanes(store, 12, 2) == 4  # 8 do not divide the batch


def test_workers_that_do_not_divide_the_lanes_are_refused(store):
    with pytest.raises(InputError, match="3 workers do not divide the users' 8 lanes"):
        checked_lane_sizes(store, 8, 8, num_workers=3)
