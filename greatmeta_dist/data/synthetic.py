"""A synthetic log: preference groups of very unequal sizes, long tails, a known noise floor.

A user belongs to one of four groups (70/20/7/3 %) whose tastes over item categories differ; each
user strays from the group, and each item has an offset. Ratings are 0.5 to 5 stars: 0.5 +
Binomial(9, p)/2, where p is a logistic function of taste. So the best possible prediction,
0.5 + 4.5p, has a known error: the noise floor. Item popularity and user activity are long-tailed.
Users are written chunk by chunk, so memory does not grow with their number.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

GROUP_SHARES = (0.70, 0.20, 0.07, 0.03)
NUM_CATEGORIES = 16
NUM_MAKERS = 40
LATENT_DIM = 6
LEVELS = 9
"""Rating steps of half a star above 0.5."""
OFFSET_SD, TASTE_SD, LATENT_SD = 0.35, 0.25, 0.12
"""Standard deviations of users about their group, in logits: offset, tastes, latent features."""
TASTE_SCALE = 0.7
"""What tastes are multiplied by, so that offsets matter beside them."""
CHUNK_USERS = 4096


@dataclass(frozen=True)
class Synthetic:
    """A generated log."""

    folder: Path
    """Has ``interactions.parquet``, ``users.parquet`` and ``items.parquet``."""
    noise_floor_rmse: float
    """RMSE of the best possible prediction over all interactions."""


@dataclass(frozen=True)
class Truth:
    """What all users share: the groups' tastes, and the items. Tastes and offsets are in logits."""

    group_taste: NDArray
    """[groups, categories]"""
    group_offset: NDArray
    """[groups]"""
    item_category: NDArray
    """[items, 2] distinct categories; the second is −1 where an item has one only."""
    item_maker: NDArray
    """[items]"""
    maker_offset: NDArray
    """[makers]"""
    item_offset: NDArray
    """[items]"""
    item_latent: NDArray
    """[items, latent features]"""
    popularity: NDArray
    """[items] probabilities."""


def draw_truth(rng: np.random.Generator, num_items: int) -> Truth:
    """Draw the groups and ``num_items`` items; the order of draws is part of what a seed means."""
    category = rng.integers(0, NUM_CATEGORIES, num_items)
    second = (category + rng.integers(1, NUM_CATEGORIES, num_items)) % NUM_CATEGORIES
    second[rng.random(num_items) < 0.4] = -1
    popularity = 1 / (10 + rng.permutation(num_items)) ** 0.9
    return Truth(
        group_taste=rng.normal(0, 0.9, (len(GROUP_SHARES), NUM_CATEGORIES)),
        group_offset=rng.normal(0.3, 0.15, len(GROUP_SHARES)),
        item_category=np.stack((category, second), 1),
        item_maker=rng.integers(0, NUM_MAKERS, num_items),
        maker_offset=rng.normal(0, 0.3, NUM_MAKERS),
        item_offset=rng.normal(0, 0.35, num_items),
        item_latent=rng.normal(0, 1, (num_items, LATENT_DIM)),
        popularity=popularity / popularity.sum(),
    )


def write_synthetic(
    folder: Path, *, users: int, items: int, mean_interactions: float, seed: int
) -> Synthetic:
    """Write users, items and interactions as Parquet into ``folder``.

    ``mean_interactions`` is the mean number of a user's interactions, before each number is kept
    between 5 and half of the items.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 1])
    truth = draw_truth(rng, items)
    _write_items(folder / "items.parquet", truth)
    squared, count = 0.0, 0
    log_schema = pa.schema(
        [("user", pa.string()), ("item", pa.string()), ("rating", pa.float32()),
         ("timestamp", pa.int64())]
    )  # fmt: skip
    user_schema = pa.schema([(n, pa.string()) for n in ("id", "age", "region", "group")])
    with (
        pq.ParquetWriter(folder / "interactions.parquet", log_schema) as log,
        pq.ParquetWriter(folder / "users.parquet", user_schema) as people,
    ):
        for start in range(0, users, CHUNK_USERS):
            ids = np.arange(start, min(users, start + CHUNK_USERS))
            # A generator of its own for each chunk, so a full chunk is the same whatever follows.
            rng = np.random.default_rng([seed, 2, start])
            group = rng.choice(len(GROUP_SHARES), len(ids), p=GROUP_SHARES)
            people.write_table(_user_table(rng, ids, group, user_schema))
            table, variance = _interaction_table(
                rng, truth, ids, group, mean_interactions, log_schema
            )
            log.write_table(table)
            squared, count = squared + float(variance.sum()), count + len(variance)
    return Synthetic(folder, (squared / max(count, 1)) ** 0.5)


def _write_items(path: Path, truth: Truth) -> None:
    categories = [
        [f"category_{c}" for c in pair if c >= 0] for pair in truth.item_category.tolist()
    ]
    ids = [f"item_{i}" for i in range(len(categories))]
    makers = [f"maker_{m}" for m in truth.item_maker.tolist()]
    pq.write_table(pa.table({"id": ids, "category": categories, "maker": makers}), path)


def _user_table(
    rng: np.random.Generator, ids: NDArray, group: NDArray, schema: pa.Schema
) -> pa.Table:
    """The chunk's users: age says a little about the group, region nothing."""
    age = np.clip(rng.normal(2.5 + 0.8 * group, 1.6), 0, 6).astype(int)
    region = rng.integers(0, 12, len(ids))
    columns = {"id": ids, "age": age, "region": region, "group": group}
    return pa.table(
        {n: [f"{'user' if n == 'id' else n}_{v}" for v in c] for n, c in columns.items()}, schema
    )


def _interaction_table(
    rng: np.random.Generator,
    truth: Truth,
    ids: NDArray,
    group: NDArray,
    mean_interactions: float,
    schema: pa.Schema,
) -> tuple[pa.Table, NDArray]:
    """The chunk's interactions, and each rating's variance about its best prediction [rows].

    ``ids`` and ``group`` are of the chunk's users [users].
    """
    num_items = len(truth.popularity)
    # A lognormal's mean is exp(mu + 0.6² / 2), hence − 0.18.
    counts = np.clip(
        rng.lognormal(np.log(mean_interactions) - 0.18, 0.6, len(ids)), 5, num_items // 2
    ).astype(np.int64)
    # The k largest of log p + Gumbel noise are k draws by p without repeats (the Gumbel top-k
    # trick), here for all users of the chunk at once.
    keys = np.log(truth.popularity) + rng.gumbel(size=(len(ids), num_items))
    ranked = np.argsort(-keys, axis=1)[:, : int(counts.max())]
    item = ranked[np.arange(ranked.shape[1]) < counts[:, None]]  # [rows]
    user = np.repeat(np.arange(len(ids)), counts)  # [rows]

    user_taste = rng.normal(0, TASTE_SD, (len(ids), NUM_CATEGORIES))
    # A last column of zeros, which the category −1 (none) then finds.
    taste = np.concatenate((truth.group_taste[group] + user_taste, np.zeros((len(ids), 1))), 1)
    score = (
        (truth.group_offset[group] + rng.normal(0, OFFSET_SD, len(ids)))[user]
        + taste[user[:, None], truth.item_category[item]].sum(1) * TASTE_SCALE
        + (rng.normal(0, LATENT_SD, (len(ids), LATENT_DIM))[user] * truth.item_latent[item]).sum(1)
        + truth.item_offset[item]
        + truth.maker_offset[truth.item_maker[item]]
    )
    p = 1 / (1 + np.exp(-score))
    rating = 0.5 + rng.binomial(LEVELS, p) / 2
    table = pa.table(
        {
            "user": [f"user_{u}" for u in ids[user]],
            "item": [f"item_{i}" for i in item],
            "rating": rating.astype(np.float32),
            "timestamp": 1_600_000_000 + rng.integers(0, 10_000_000, len(item)),
        },
        schema,
    )
    # Var(Binomial / 2) is a quarter of the binomial's variance.
    return table, LEVELS * p * (1 - p) / 4
