"""The split at one global point in time, in plain Python: one row and one user at a time.

As ``plain``, it is written from what the documents say, and shares no code with the program.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from benchmarks.fuzz.plain import (
    Interaction,
    Row,
    Task,
    cap_support,
    plain_draw,
    plain_hash,
    plain_pair,
    plain_unit,
    query_size,
    rule_of_user,
)
from greatmeta_dist.config import DataConfig


def plain_split_time(rows: Sequence[Row], config: DataConfig) -> float:
    """The point in time, by going through all times."""
    if config.split_at is not None:
        try:
            return float(config.split_at)
        except ValueError:
            moment = datetime.fromisoformat(config.split_at)
            return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    assert config.split_last is not None
    times = sorted(row.time for row in rows if row.time is not None)
    for k, time in enumerate(times):
        is_first_of_its_time = k == 0 or times[k - 1] < time
        if is_first_of_its_time and len(times) - k <= config.split_last * len(times):
            return time
    raise AssertionError("no point in time leaves so few rows after it")


def is_before(one: Row | Interaction, split_time: float) -> bool:
    """Rows at the point itself are after it; rows without a time are before any."""
    return one.time is None or one.time < split_time


def known_rows(rows: Sequence[Row], split_time: float) -> list[Row]:
    """A user's rows of one item that count: those before the point, where there are any."""
    before = [row for row in rows if is_before(row, split_time)]
    return before or list(rows)


def rule_by_time(
    num_rows: int,
    interactions: Sequence[Interaction],
    cold: set[str],
    split_time: float,
    config: DataConfig,
) -> str:
    """Why a user has no task; ``num_rows`` are of the user's period, repeats included."""
    before = [one for one in interactions if is_before(one, split_time)]
    if not before and config.test_fraction == 0:
        return "new after the point in time, and data.test_fraction=0"
    period = before or interactions
    num_warm = sum(one.item not in cold for one in period)
    rule = rule_of_user(num_rows, len(period), num_warm, config)
    is_few = rule in ("fewer than data.min_interactions", "one row, and a task needs two")
    if before and is_few and len(interactions) >= max(2, config.min_interactions):
        return "too few before the point in time"
    return rule


def split_user_by_time(
    user: str,
    interactions: Sequence[Interaction],
    cold: set[str],
    split_time: float,
    config: DataConfig,
) -> dict[str, Task]:
    """The tasks of a user who has some, by split."""
    hashed = plain_hash(user)

    def latest_first(one: Interaction) -> tuple:
        draw = plain_draw(plain_pair(hashed, plain_hash(one.item)), config.seed, "query")
        return (-_time(one), draw)

    ranked = sorted(interactions, key=latest_first)
    before = [one for one in ranked if is_before(one, split_time)]
    after = [one for one in ranked if not is_before(one, split_time)]
    known = [one for one in before or after if one.item not in cold]
    size = query_size(len(known), 1, config)

    def task(support: list[Interaction], query: list[Interaction]) -> Task:
        kept = cap_support(user, support, config)
        return {"support": [one.item for one in kept], "query": [one.item for one in query]}

    def first(rows: list[Interaction], number: int | None) -> list[Interaction]:
        return rows if number is None else rows[max(0, len(rows) - number) :]

    tasks = {}
    if before and plain_unit(hashed, config.seed, "split") < config.valid_fraction:
        return {"valid": task(known[size:], known[:size])}
    if before:
        tasks["train"] = task(known[size:], known[:size])
        asked = [one for one in after if one.item not in cold]
        is_warm = plain_unit(hashed, config.seed, "warm") < config.warm_fraction
        if is_warm and asked:
            tasks["warm"] = task(known, first(asked, config.query_items))
        asked = [one for one in after if one.item in cold]
        if asked:
            tasks["item_cold"] = task(known, first(asked, config.query_items))
        return tasks
    tasks["user_cold"] = task(known[size:], known[:size])
    begin = min(_time(one) for one in known[:size])
    asked = [one for one in after if one.item in cold and _time(one) >= begin]
    if asked:
        tasks["both_cold"] = task(known[size:], first(asked, size))
    return tasks


def _time(one: Row | Interaction) -> float:
    return -math.inf if one.time is None else one.time
