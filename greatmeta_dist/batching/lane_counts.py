"""How many lanes the training users are cut into.

K lanes fix what a run computes: a run at any number of workers that divides K has the same bits.
"""

from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import require

USERS_PER_LANE = 4096
"""Training users for which a lane of its own is worth its messages."""
USUAL_WORKERS = 8
"""Groups of up to so many workers should give one result, whichever their number."""


def default_lanes(num_train: int, num_shards: int) -> int:
    """K by a rule that looks at the store alone: a power of two that divides the shards."""
    lanes = 1
    while 2 * lanes * USERS_PER_LANE <= num_train and num_shards % (2 * lanes) == 0:
        lanes *= 2
    return lanes


def lane_sizes(store: Store, num_lanes: int) -> list[int]:
    """Users of each lane."""
    return [sum(store.train_sizes[lane::num_lanes]) for lane in range(num_lanes)]


def group_lanes(store: Store, users_per_batch: int, num_workers: int) -> int:
    """K for a group of workers.

    It is that of ``default_lanes``, but at least the number of workers, and at least 8 where users
    and shards allow, so that up to 8 workers give one result.
    """
    num_shards = store.manifest.shards["train"]
    lanes = max(
        USUAL_WORKERS, num_workers, default_lanes(store.manifest.splits["train"], num_shards)
    )

    def fits(count: int) -> bool:
        is_divided = num_shards % count == 0 and users_per_batch % count == 0
        return is_divided and min(lane_sizes(store, count)) * count >= users_per_batch

    while lanes > num_workers and not fits(lanes):
        lanes //= 2
    return lanes


def checked_lane_sizes(
    store: Store, num_lanes: int | None, users_per_batch: int, num_workers: int
) -> list[int]:
    """Users of each lane, ``num_lanes`` or as many as ``default_lanes`` says.

    Raises ``InputError`` where lanes, shards, workers and the batch do not divide, or where the
    shortest lane cannot fill a batch.
    """
    num_shards, num_train = store.manifest.shards["train"], store.manifest.splits["train"]
    count = num_lanes or default_lanes(num_train, num_shards)
    require(
        num_shards % count == 0 and users_per_batch % count == 0,
        f"{count} lanes do not divide the store's {num_shards} shards and "
        f"train.users_per_batch={users_per_batch}; change train.lanes or train.users_per_batch",
    )
    require(
        count % num_workers == 0,
        f"{num_workers} workers do not divide the users' {count} lanes, which a run keeps; take "
        "fewer workers, or start a new run=DIR with more train.lanes",
    )
    sizes = lane_sizes(store, count)
    shortest = min(sizes)
    require(
        shortest * count >= users_per_batch,
        f"train.users_per_batch is {users_per_batch}, and the store has users for "
        f"{shortest * count} ({num_train} training users in {count} lanes); "
        "lower it to that or less",
    )
    return sizes
