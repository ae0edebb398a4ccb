"""Random tasks for the float64 tests, in production form and in the naive loop's form."""

from dataclasses import dataclass

import numpy as np

from benchmarks import naive
from greatmeta_dist.data.tasks import Features, TaskTable
from greatmeta_dist.ragged import Ragged, offsets_of


@dataclass
class RandomTasks:
    table: TaskTable
    items: Features
    users: list[naive.User]
    field_rows: list[range]
    """Rows of each field in the shared row space, user fields first."""
    is_mean: list[bool]

    @property
    def num_rows(self) -> int:
        return self.field_rows[-1].stop


def ragged(lists: list[list]) -> Ragged:
    values = np.array([v for row in lists for v in row], dtype=np.int64)
    return Ragged(values, offsets_of(np.array([len(row) for row in lists], dtype=np.int64)))


def make_tasks(
    rng: np.random.Generator,
    *,
    num_users: int = 7,
    longest: int = 5,
    is_click: bool = False,
    has_logits: bool = False,
) -> RandomTasks:
    """Uneven sizes and lists, repeated items, one-row supports, one user without a query."""
    sizes = [3, 5, 4, 9, 6]
    stops = np.cumsum(sizes)
    rows = [range(int(b - a), int(b)) for a, b in zip(sizes, stops, strict=True)]
    is_mean = [False, False, False, True, False]

    def lists(field: int, count: int, shortest: int, longest: int) -> list[list[int]]:
        return [
            [int(v) for v in rng.choice(rows[field], rng.integers(shortest, longest + 1))]
            for _ in range(count)
        ]

    num_items = 12
    user_fields = [lists(0, num_users, 1, 1), lists(1, num_users, 0, 3)]
    item_fields = [lists(2, num_items, 1, 1), lists(3, num_items, 0, 4), lists(4, num_items, 1, 3)]
    sets, labels = [], []
    for part in range(2):
        lengths = rng.integers(1, longest + 1, num_users)
        lengths[0] = 1
        if part == 1:
            lengths[-1] = 0
        sets.append([[int(i) for i in rng.integers(0, num_items, n)] for n in lengths])
        labels.append(
            [
                (rng.integers(0, 2, n) if is_click else rng.normal(0, 1, n)).astype(float).tolist()
                for n in lengths
            ]
        )
    users = [
        naive.User(
            [f[u] for f in user_fields],
            [[f[i] for f in item_fields] for i in sets[0][u]],
            labels[0][u],
            [[f[i] for f in item_fields] for i in sets[1][u]],
            labels[1][u],
            target_weight=float(rng.uniform(0.5, 3)),
        )
        for u in range(num_users)
    ]
    logits: list[np.ndarray | None] = [None, None]
    if has_logits:
        logits = [rng.normal(0, 1, sum(map(len, labels[part]))) for part in range(2)]
        for part, name in enumerate(("support_logit", "query_logit")):
            ends = np.cumsum([len(row) for row in labels[part]])
            for user, own in zip(users, np.split(logits[part], ends[:-1]), strict=True):
                setattr(user, name, own.tolist())

    def label_values(part: int) -> Ragged:
        flat = np.array([v for row in labels[part] for v in row])
        return Ragged(flat, ragged(sets[part]).offsets)

    table = TaskTable(
        Features(tuple(ragged(f) for f in user_fields), tuple(is_mean[:2]), (0, 3)),
        ragged(sets[0]),
        label_values(0),
        ragged(sets[1]),
        label_values(1),
        *logits,
    )
    items = Features(tuple(ragged(f) for f in item_fields), tuple(is_mean[2:]), (8, 12, 21))
    return RandomTasks(table, items, users, rows, is_mean)
