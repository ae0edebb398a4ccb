"""A split is read whole, or a fair sample of it, by any number of readers."""

import itertools

import numpy as np
import pytest
from stores import CHOICE

from greatmeta_dist.batching.read import read_split


def test_reading_a_split_gives_every_task_once(store):
    batches = list(read_split(store, "user_cold", CHOICE, users_per_batch=3))
    users = [u for b in batches for u in b.user]
    assert sorted(users) == sorted(store.split("user_cold", CHOICE).user)


def test_of_a_large_split_some_of_every_shard_are_read(store):
    some = list(read_split(store, "train", CHOICE, users_per_batch=3, max_users=16))
    users = [u for b in some for u in b.user]
    num_shards = store.manifest.shards["train"]
    shards = [store.tasks_of(store.shard("train", s), CHOICE).user for s in range(num_shards)]
    assert 16 <= len(set(users)) == len(users) <= 16 + num_shards
    assert all(set(users) & set(of_shard) for of_shard in shards)
    by_two = [
        u
        for rank in range(2)
        for b in read_split(
            store, "train", CHOICE, users_per_batch=3, max_users=16, rank=rank, world_size=2
        )
        for u in (b.user if b else [])
    ]
    assert sorted(by_two) == sorted(users)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_all_readers_get_as_many_batches_the_last_perhaps_none(store, world_size):
    readers = [
        list(
            read_split(
                store, "user_cold", CHOICE, users_per_batch=2, rank=rank, world_size=world_size
            )
        )
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in readers}) == 1
    assert all(batch is not None for batches in readers for batch in batches[:-1])
    users = [u for batches in readers for batch in batches if batch for u in batch.user]
    assert sorted(users) == sorted(store.split("user_cold", CHOICE).user)


def test_users_of_a_batch_have_similar_supports(store):
    num_shards = store.manifest.shards["train"]
    batches = list(read_split(store, "train", CHOICE, users_per_batch=5))
    lengths = [batch.tasks.support_item.lengths for batch in batches]
    assert all((np.diff(of_batch) >= 0).all() for of_batch in lengths)
    descents = sum(a[-1] > b[0] for a, b in itertools.pairwise(lengths))
    assert descents < num_shards


def test_a_split_that_is_not_there_has_no_batch(store):
    assert list(read_split(store, "both_cold", CHOICE, users_per_batch=5)) == []
