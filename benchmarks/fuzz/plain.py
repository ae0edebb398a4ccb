"""What ``prepare`` does with good rows, in plain Python: one row, one user, one number at a time.

It is written from what the documents say, and shares no code with the program: the hash of
``data/hashing.py``, the rules of ``data.repeats``, the recipe's splits, and drawn negatives.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from greatmeta_dist.config import DataConfig

MODULUS = 2**64
MERGED = "too few once repeats are merged"

Task = dict[str, list[str]]
"""``support`` and ``query`` → items, by rank."""


def plain_mix(z: int) -> int:
    """The finaliser of splitmix64, in integers of any size."""
    z = (z + 0x9E3779B97F4A7C15) % MODULUS
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % MODULUS
    z = (z ^ z >> 27) * 0x94D049BB133111EB % MODULUS
    return z ^ z >> 31


@cache
def plain_hash(token: str) -> int:
    """The hash of a token, word by word."""
    data = token.encode()
    h = plain_mix(len(data))
    for first in range(0, len(data), 8):
        h = plain_mix(h ^ int.from_bytes(data[first : first + 8], "little"))
    return h


def plain_pair(left: int, right: int) -> int:
    """The hash of two hashes."""
    return plain_mix(plain_mix(left) ^ right)


def plain_draw(hashed: int, seed: int, purpose: str) -> int:
    """64 random bits."""
    return plain_mix(hashed ^ plain_hash(f"{seed}/{purpose}"))


def plain_unit(hashed: int, seed: int, purpose: str) -> float:
    """A random number in [0, 1)."""
    return (plain_draw(hashed, seed, purpose) >> 11) / 2**53


@dataclass(frozen=True)
class Row:
    """A good row of a log."""

    user: str
    item: str
    rating: float
    time: float | None
    line: int
    """In all files together."""
    at: tuple[str, int] = ("", 0)
    """The file, and the line in it."""


@dataclass(frozen=True)
class Interaction:
    """What is left of all rows of a user and an item."""

    item: str
    label: float
    time: float | None


def by_age(rows: Sequence[Row], *, has_time: bool) -> list[Row]:
    """Rows by time, then by rating, the latest last; of a log without times, by line."""

    def age(row: Row) -> tuple:
        if not has_time:
            return (row.line,)
        return (-math.inf if row.time is None else row.time, row.rating, row.line)

    return sorted(rows, key=age)


def merge_repeats(rows: Sequence[Row], config: DataConfig, *, has_time: bool) -> Interaction:
    """One interaction for all rows of one user and one item."""
    rule = config.repeats_rule
    ordered = by_age(rows, has_time=has_time)
    ratings = [row.rating for row in ordered]
    chosen = ordered[0] if rule == "first" else ordered[-1]
    rating = {
        "first": ratings[0],
        "max": max(ratings),
        "sum": math.fsum(ratings),
        "mean": math.fsum(ratings) / len(ratings),
        "count": float(len(ratings)),
    }.get(rule, ratings[-1])
    if config.is_implicit:
        label = 1.0
    elif config.is_click:
        assert config.click_at is not None
        label = float(rating >= config.click_at)
    else:
        label = rating
    return Interaction(chosen.item, label, chosen.time)


def is_cold(item: str, config: DataConfig) -> bool:
    """Whether an item is held out of training."""
    return plain_unit(plain_hash(item), config.seed, "item") < config.cold_item_fraction


def query_size(num_warm: int, num_queries: int, config: DataConfig) -> int:
    """Interactions of a query, of which a user of so many has one or two."""
    if config.query_items is not None:
        size = min(config.query_items, math.floor(num_warm * config.max_query_fraction))
    else:
        assert config.query_fraction is not None
        size = math.ceil(num_warm * config.query_fraction)
    return max(1, min(size, (num_warm - 1) // num_queries))


def cap_support(
    user: str, support: Sequence[Interaction], config: DataConfig
) -> Sequence[Interaction]:
    """The interactions that a support keeps, in the order in which it has them."""
    most = config.max_support
    if most is None or len(support) <= most:
        return support

    def precedence(one: Interaction) -> tuple:
        draw = plain_draw(plain_pair(plain_hash(user), plain_hash(one.item)), config.seed, "query")
        if config.support_rule == "random":
            return (draw,)
        return (math.inf if one.time is None else -one.time, draw)

    chosen = {one.item for one in sorted(support, key=precedence)[:most]}
    return [one for one in support if one.item in chosen]


def rule_of_user(num_rows: int, num_merged: int, num_warm: int, config: DataConfig) -> str:
    """Why a user has no task; empty for one who has."""
    if config.max_interactions is not None and num_merged > config.max_interactions:
        return "more than data.max_interactions"
    if num_merged < config.min_interactions:
        is_merged = num_rows >= config.min_interactions or num_rows >= 2 > num_merged
        return MERGED if is_merged else "fewer than data.min_interactions"
    if num_warm >= 2:
        return ""
    if num_merged >= 2:
        return "too few without held-out items"
    return MERGED if num_rows >= 2 else "one row, and a task needs two"


def split_user(
    user: str, interactions: Sequence[Interaction], config: DataConfig
) -> dict[str, Task]:
    """The tasks of a user who has some, by split."""
    hashed = plain_hash(user)

    def rank(one: Interaction) -> tuple:
        """The latest first, or at random; at random where times are equal or missing."""
        draw = plain_draw(plain_pair(hashed, plain_hash(one.item)), config.seed, "query")
        if config.query_by != "time":
            return (draw,)
        return (math.inf if one.time is None else -one.time, draw)

    ranked = sorted(interactions, key=rank)
    cold = [one for one in ranked if is_cold(one.item, config)]
    warm = [one for one in ranked if one not in cold]
    size = query_size(len(warm), 1, config)

    def task(support: list[Interaction], query: list[Interaction]) -> Task:
        kept = cap_support(user, support, config)
        return {"support": [one.item for one in kept], "query": [one.item for one in query]}

    draw = plain_unit(hashed, config.seed, "split")
    if draw < config.test_fraction:
        tasks = {"user_cold": task(warm[size:], warm[:size])}
        if cold:
            tasks["both_cold"] = task(warm[size:], cold[:size])
        return tasks
    if draw < config.test_fraction + config.valid_fraction:
        return {"valid": task(warm[size:], warm[:size])}
    tasks = {}
    is_warm = plain_unit(hashed, config.seed, "warm") < config.warm_fraction
    trained = warm
    if is_warm and len(warm) > 2:
        size = query_size(len(warm), 2, config)
        trained = warm[size:]
        tasks["warm"] = task(trained, warm[:size])
    tasks["train"] = task(trained[size:], trained[:size])
    if cold:
        tasks["item_cold"] = task(trained, cold[:size])
    return tasks


def draw_negatives(
    user: str,
    tasks: dict[str, Task],
    met: set[str],
    pools: dict[bool, list[str]],
    config: DataConfig,
) -> dict[str, Task]:
    """The items drawn for each of a user's tasks.

    ``pools`` has the cold items (True) and the others, in the catalogue's order. The first rows of
    a task draw first: those of warm items by rank, then those of cold ones.
    """
    drawn: dict[str, Task] = {}
    for split, task in tasks.items():
        drawn[split] = {"support": [], "query": []}
        asks_cold = split in ("item_cold", "both_cold")
        order = ("support", "query") if asks_cold else ("query", "support")
        seen = set(met)
        for number in range(config.negatives):
            for role in order:
                pool = pools[asks_cold and role == "query"]
                for item in task[role]:
                    pair = plain_pair(plain_hash(user), plain_hash(item))
                    row = plain_pair(plain_hash(split), pair)
                    draw = plain_unit(row, config.seed, f"negative {number}")
                    candidate = pool[int(draw * len(pool))]
                    if candidate not in seen:
                        seen.add(candidate)
                        drawn[split][role].append(candidate)
    if "warm" in drawn and "train" in drawn:
        asked = set(drawn["warm"]["query"])
        for role, items in drawn["train"].items():
            drawn["train"][role] = [item for item in items if item not in asked]
    return drawn
