"""Does the memory of ``greatmeta recommend`` grow with the number of users?

``python -m benchmarks.recommend_log [--users 1000000 4000000] [--items 1000] [--model]
[--workers 2] [--json FILE]``. A small run is trained on synthetic data, and logs of so many new
users are written, with 10 ratings each on average; a hundredth of the ratings are of new items. The
command runs on each log in a process of its own, and its peak of resident memory is taken. Without
``--model`` users get the first items of the catalogue instead of their best ones: then the figures
are those of reading, grouping, learning new items and writing alone, and no matrix is multiplied.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.environment import write_result
from benchmarks.prepare.measure import Cost, measure
from greatmeta_dist.cli import main as greatmeta

USERS_PER_CHUNK = 100_000
MAX_RATINGS = 20
SHARE_NEW = 0.01
NUM_NEW_ITEMS = 50
LIMIT_S, LIMIT_MIB = 24 * 3600.0, 64 * 1024.0
COMMAND = """
import sys
import numpy as np
from greatmeta_dist.cli import main
from greatmeta_dist.recommend.catalogue_scorer import TopItems
from greatmeta_dist.recommend.recommend_unit import RecommendUnit
if sys.argv[1] == "without":
    def first_items(self, opened, asked, users):
        tasks = asked.tasks.take(users)
        return tasks, [TopItems(np.arange(self.k), np.zeros(self.k))] * len(users)
    RecommendUnit._best = first_items
sys.exit(main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Row:
    """One size of log."""

    users: int
    log_mib: float
    lists_mib: float
    cost: Cost

    @property
    def users_per_second(self) -> float:
        return self.users / self.cost.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[1_000_000, 4_000_000])
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--model", action="store_true", help="find the best items, with the model")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="greatmeta-recommend-") as name:
        folder = Path(name)
        train_run(folder, options.items)
        rows = [run(folder, users, options) for users in options.users]
    show(rows)
    write_result(options.json, options, {"rows": [asdict(row) for row in rows]})


def train_run(folder: Path, num_items: int) -> None:
    """A run of so many items; what it predicts does not matter."""
    store = f"store={folder}/store"
    log = ["data=synthetic", "data.users=1000", f"data.items={num_items}"]
    for words in (
        ["prepare", *log, store],
        ["train", store, f"run={folder}/run", "train.steps=4", "priors.bayesian_mf.num_starts=1"],
    ):
        if greatmeta(words):
            raise RuntimeError(f"greatmeta {' '.join(words)} failed")


def write_log(path: Path, num_users: int, num_items: int, *, seed: int = 0) -> None:
    """A log of new users, chunk by chunk; users are whole numbers."""
    rng = np.random.default_rng(seed)
    names = np.array([f"item_{k}" for k in range(num_items)])
    new = np.array([f"new_{k}" for k in range(NUM_NEW_ITEMS)])
    schema = pa.schema([("user", pa.int64()), ("item", pa.string()), ("rating", pa.float32())])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, num_users, USERS_PER_CHUNK):
            users = np.arange(first, min(first + USERS_PER_CHUNK, num_users))
            user = users.repeat(rng.integers(1, MAX_RATINGS, len(users)))
            is_new = rng.random(len(user)) < SHARE_NEW
            item = np.where(is_new, rng.choice(new, len(user)), rng.choice(names, len(user)))
            rating = rng.integers(1, 6, len(user)).astype(np.float32)
            writer.write_table(pa.table([user, item, rating], schema=schema))


def run(folder: Path, num_users: int, options: argparse.Namespace) -> Row:
    """Recommend to the users of one log. Raises ``RuntimeError`` where that fails."""
    log, out = folder / f"log-{num_users}.parquet", folder / f"lists-{num_users}"
    write_log(log, num_users, options.items)
    words = [f"run={folder}/run", f"users={log}", f"out={out}", f"k={options.k}"]
    cost = measure(
        [sys.executable, "-c", COMMAND, "with" if options.model else "without", "recommend", *words,
         f"cluster.workers={options.workers}"],
        environ={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path.cwd(),
        log=folder / "log.txt",
        limit_s=LIMIT_S,
        limit_mib=LIMIT_MIB,
    )  # fmt: skip
    if cost.failure is not None:
        raise RuntimeError(cost.failure)
    lists = sum(path.stat().st_size for path in out.iterdir())
    return Row(num_users, log.stat().st_size / 2**20, lists / 2**20, cost)


def show(rows: list[Row]) -> None:
    """Print the table."""
    columns = ("users", "log, MiB", "lists, MiB", "seconds", "users/s", "peak memory, MiB")
    table = Table(*columns, box=SIMPLE, title="greatmeta recommend")
    for row in rows:
        table.add_row(
            f"{row.users:,}",
            f"{row.log_mib:.0f}",
            f"{row.lists_mib:.0f}",
            f"{row.cost.seconds:.0f}",
            f"{row.users_per_second:,.0f}",
            f"{row.cost.peak_mib:.0f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
