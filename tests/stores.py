"""What a store holds, as tests compare it."""

import numpy as np
import polars as pl

from greatmeta_dist.data.store import FeatureSpec, Store

CHOICE = FeatureSpec(has_item_id=True, list_pooling="mean")


Task = dict[str, list[tuple[str, float]]]
"""role → (item token, rating)."""


def tasks_of(store: Store, split: str) -> dict[str, Task]:
    """Every task of a split, by user."""
    tokens = store.item_tokens()
    stored = store.split(split, CHOICE)
    by_user: dict[str, Task] = {}
    for u, user in enumerate(stored.user):
        by_user[user] = {}
        for role in ("support", "query"):
            items = getattr(stored.tasks, f"{role}_item")
            ratings = getattr(stored.tasks, f"{role}_label")
            task = slice(items.offsets[u], items.offsets[u + 1])
            pairs = zip(items.values[task], ratings.values[task], strict=True)
            by_user[user][role] = [(tokens[i], float(r)) for i, r in pairs]
    return by_user


def items_of(task: Task) -> set[str]:
    return {item for rows in task.values() for item, _ in rows}


def normalised(tasks: dict[str, Task]) -> dict[str, Task]:
    """The same tasks, each set's rows in one order."""
    return {u: {r: sorted(v) for r, v in t.items()} for u, t in tasks.items()}


def rows_of(store: Store, split: str) -> pl.DataFrame:
    """``user item label role`` of a split's rows."""
    stored = store.split(split, CHOICE)
    frames = []
    for role in ("support", "query"):
        item, label = (getattr(stored.tasks, f"{role}_{w}") for w in ("item", "label"))
        user = np.repeat(stored.user, item.lengths)
        tokens = np.array(store.item_tokens())[item.values]
        frames.append(
            pl.DataFrame({"user": user, "item": tokens, "label": label.values, "role": role})
        )
    return pl.concat(frames)
