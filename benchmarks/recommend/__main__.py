"""How fast are recommendations over large catalogues, and how far from what is possible?

``python -m benchmarks.recommend [--items 100000 1000000] [--users 256] [--online 200] [-k 10]
[--threads 1] [--json FILE]``. A model of the shipped form with random numbers, users of 5 to 50
known ratings. In one run: the best items of users in batches; a loop that asks for the score of
every item, user by user, as evaluation does; and the *limit*, a matrix product as large as the
first stage's (users' numbers times items' numbers), with nothing around it. Also ``implicit``,
where it is installed: its fold-in and best items of the same users, with as many factors as the
factorisation here has, and with as many as the whole model. Then one user at a time, in raw ids:
p50 and p99 of adapting and recommending. That the batch gives the loop's scores is checked.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks.environment import write_result
from benchmarks.recommend import against_implicit
from benchmarks.recommend.random_model import random_ranker, random_scorer, random_users, raw
from greatmeta_dist.data.tasks import TaskTable
from greatmeta_dist.display import Display
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.recommend.catalogue_scorer import CatalogueScorer
from greatmeta_dist.recommend.ranker import USERS_PER_BATCH, Ranker

LOOP_USERS = 3
"""Users of the loop, each of whom takes long."""
ITEMS_PER_CALL = 4096
ROUNDS = 3
TOLERANCE = 1e-4
WARM_UP = 10
"""First users of those one at a time, who are not counted."""


@dataclass(frozen=True)
class Row:
    """One size of catalogue."""

    items: int
    prepare_seconds: float
    """To look at all items once."""
    batch: float
    """Users a second."""
    loop: float
    limit: float
    implicit: dict[int, float]
    """Users a second of ``implicit``, by its number of factors; empty where it is not installed."""
    online_p50_ms: float
    online_p99_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--users", type=int, default=256)
    parser.add_argument("--online", type=int, default=200, help="users, one at a time")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    if not against_implicit.is_installed():
        print("implicit is not installed, and not compared with; pip install '.[benchmarks]'")
    with (
        threadpool_limits(options.threads, "blas"),
        Display(Console(stderr=True)).bar("recommend", len(options.items), "catalogues") as bar,
    ):
        for number, num_items in enumerate(options.items):
            rows.append(measure(num_items, options))
            bar.update(number + 1, f"{num_items} items")
    show(rows, options.k)
    write_result(options.json, options, {"rows": [asdict(row) for row in rows]})


def measure(num_items: int, options: argparse.Namespace) -> Row:
    """All figures of one catalogue. Raises ``RuntimeError`` where batch and loop differ."""
    scorer = random_scorer(num_items)
    users = random_users(scorer, max(options.users, options.online))
    start = time.perf_counter()
    ranker = random_ranker(scorer)
    prepare_seconds = time.perf_counter() - start
    of_catalogue = ranker.of_catalogue
    chosen = [users.take(part) for part in _batches(options.users)]
    items = of_catalogue.linear.items
    matrices = (items.features.columns(torch.arange(num_items)), items.vector)
    works: dict[Any, Callable[[], object]] = {
        "batch": lambda: [_best(of_catalogue, part, options.k) for part in chosen],
        "limit": lambda: _products(matrices, chosen),
    }
    if against_implicit.is_installed():
        for num_factors in _factors(of_catalogue):
            works[num_factors] = _by_implicit(num_items, num_factors, chosen, options)
    seconds: dict[Any, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):  # in turns, so that all meet the same machine
        for name, work in works.items():
            seconds[name].append(_seconds(work))
    rate = {name: options.users / float(np.median(times)) for name, times in seconds.items()}
    loop_users = users.take(np.arange(LOOP_USERS))
    start = time.perf_counter()
    every = _score_all(scorer, loop_users, num_items)
    loop = time.perf_counter() - start
    _require_same(of_catalogue, loop_users, every, options.k)
    p50, p99 = _online(ranker, users, options)
    return Row(
        num_items,
        prepare_seconds,
        rate.pop("batch"),
        LOOP_USERS / loop,
        rate.pop("limit"),
        rate,
        p50,
        p99,
    )


def _factors(of_catalogue: CatalogueScorer) -> tuple[int, int]:
    """Numbers of an item: those of the factorisation, and those of the whole model."""
    items = of_catalogue.linear.items
    of_priors = len(items.vector)
    return of_priors, of_priors + len(of_catalogue.linear.centre)


def _by_implicit(
    num_items: int, num_factors: int, chosen: list[TaskTable], options: argparse.Namespace
) -> Callable[[], object]:
    recommend = against_implicit.recommender(num_items, num_factors, threads=options.threads)
    return lambda: [recommend(part, options.k) for part in chosen]


def _online(ranker: Ranker, users: TaskTable, options: argparse.Namespace) -> tuple[float, float]:
    """p50 and p99 in ms of one user at a time, as a caller asks."""
    latency = []
    for user in range(options.online):
        interactions, features = raw(users, user)
        start = time.perf_counter()
        ranker.recommend(
            interactions, options.k, user_features=features, exclude_seen=True, candidates=None
        )
        latency.append(time.perf_counter() - start)
    p50, p99 = 1e3 * np.quantile(latency[WARM_UP:], [0.5, 0.99])
    return float(p50), float(p99)


def _batches(num_users: int) -> list[np.ndarray]:
    starts = range(0, num_users, USERS_PER_BATCH)
    return [np.arange(first, min(first + USERS_PER_BATCH, num_users)) for first in starts]


def _best(of_catalogue: CatalogueScorer, users: TaskTable, k: int) -> list:
    return of_catalogue.top(users, k, exclude=users.support_item)


def _products(matrices: Sequence[torch.Tensor], batches: list[TaskTable]) -> None:
    """Users' numbers times items' numbers [n, I], as many as an item has in the first stage."""
    for users in batches:
        for items in matrices:
            torch.ones(len(users), len(items)) @ items


def _score_all(scorer: Scorer, users: TaskTable, num_items: int) -> np.ndarray:
    """[U, I] scores, user by user."""
    rows = []
    for user in range(len(users)):
        one = users.take(np.array([user]))
        parts = np.array_split(np.arange(num_items), -(-num_items // ITEMS_PER_CALL))
        scores = [scorer.predict(one.asking(part[None]))["adapted"] for part in parts]
        rows.append(np.concatenate(scores))
    return np.stack(rows)


def _require_same(
    of_catalogue: CatalogueScorer, users: TaskTable, every: np.ndarray, k: int
) -> None:
    for user, best in enumerate(of_catalogue.top(users, k)):
        highest = np.sort(every[user])[::-1][:k]
        if np.abs(best.score - highest).max() > TOLERANCE:
            raise RuntimeError(f"user {user}: the best scores are {highest}, found {best.score}")


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def show(rows: list[Row], k: int) -> None:
    """Print the tables."""
    columns = ("items", "first look, s", f"users/s, best {k}", "loop", "times the loop",
               "matrix product", "share of it", "one user: p50, ms", "p99, ms")  # fmt: skip
    table = Table(*columns, box=SIMPLE, title="recommendations")
    others = Table("items", "implicit's factors", "its users/s", "ours over its", box=SIMPLE)
    for row in rows:
        table.add_row(
            f"{row.items:,}",
            f"{row.prepare_seconds:.2f}",
            f"{row.batch:.1f}",
            f"{row.loop:.2f}",
            f"{row.batch / row.loop:.0f}",
            f"{row.limit:.1f}",
            f"{row.batch / row.limit:.0%}",
            f"{row.online_p50_ms:.1f}",
            f"{row.online_p99_ms:.1f}",
        )
        for factors, rate in row.implicit.items():
            others.add_row(f"{row.items:,}", str(factors), f"{rate:.1f}", f"{row.batch / rate:.2f}")
    for shown in (table, others) if others.rows else (table,):
        Console(width=140).print(shown)


if __name__ == "__main__":
    main()
